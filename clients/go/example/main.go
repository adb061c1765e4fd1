// Embeds two texts: go run ./example 127.0.0.1:50051
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	assay "assay.dev/clients/go/gen/assay/v1"
)

func main() {
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request := &assay.EmbedRequest{Inputs: []string{"A red fox.", "今天天气很好。"}}
	response, err := assay.NewEmbeddingServiceClient(conn).Embed(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	for _, embedding := range response.Embeddings {
		fmt.Println(len(embedding.Values), "numbers:", embedding.Values[:3], "...")
	}
}
