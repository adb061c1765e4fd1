package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	assay "assay.dev/clients/go/gen/assay/v1"
)

// decode gives the numbers of an embedding in any encoding; of BINARY, 1 for numbers above 0 and else 0.
func decode(embedding *assay.Embedding, encoding assay.Encoding, dimensions int) []float32 {
	if encoding <= assay.Encoding_ENCODING_FLOAT32_VALUES {
		return embedding.Values
	}
	raw, values := embedding.Raw, make([]float32, dimensions)
	for i := range values {
		switch encoding {
		case assay.Encoding_ENCODING_FLOAT32_BYTES:
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		case assay.Encoding_ENCODING_FLOAT16_BYTES:
			values[i] = float16(binary.LittleEndian.Uint16(raw[2*i:]))
		case assay.Encoding_ENCODING_INT8_BYTES:
			values[i] = float32(int8(raw[i])) * embedding.Scale
		case assay.Encoding_ENCODING_BINARY_BYTES:
			values[i] = float32(raw[i/8] >> (7 - i%8) & 1)
		}
	}
	return values
}

// float16 reads an IEEE 754 number of 16 bits: sign, 5 bits of exponent, 10 of fraction.
func float16(bits uint16) float32 {
	sign, exponent, fraction := 1.0, int(bits>>10&31), float64(bits&1023)
	if bits>>15 == 1 {
		sign = -1
	}
	switch exponent {
	case 0:
		return float32(sign * math.Ldexp(fraction, -24))
	case 31:
		if fraction != 0 {
			return float32(math.NaN())
		}
		return float32(math.Inf(int(sign)))
	}
	return float32(sign * math.Ldexp(1024+fraction, exponent-25))
}

func bytesOfEveryEncodingHoldTheValues(ctx context.Context, s server) (string, error) {
	values, err := s.vectors(ctx, nil, "A red fox.")
	if err != nil {
		return "", err
	}
	for encoding, bytes := range map[assay.Encoding]int{
		assay.Encoding_ENCODING_FLOAT32_BYTES: 4 * modelDimensions,
		assay.Encoding_ENCODING_FLOAT16_BYTES: 2 * modelDimensions,
		assay.Encoding_ENCODING_INT8_BYTES:    modelDimensions,
		assay.Encoding_ENCODING_BINARY_BYTES:  modelDimensions / 8,
	} {
		response, err := s.embedding.Embed(ctx, &assay.EmbedRequest{
			Inputs:  []string{"A red fox."},
			Options: &assay.EmbedOptions{Encoding: encoding},
		})
		if err != nil {
			return "", err
		}
		embedding := response.Embeddings[0]
		if len(embedding.Raw) != bytes || len(embedding.Values) != 0 {
			return "", fmt.Errorf("%v: %d bytes and %d values", encoding, len(embedding.Raw), len(embedding.Values))
		}
		decoded := decode(embedding, encoding, modelDimensions)
		if err := agrees(decoded, values[0], encoding, embedding.Scale); err != nil {
			return "", fmt.Errorf("%v: %w", encoding, err)
		}
	}
	return "f32, f16, int8, bits", nil
}

func agrees(decoded, values []float32, encoding assay.Encoding, scale float32) error {
	switch encoding {
	case assay.Encoding_ENCODING_FLOAT16_BYTES:
		return same(decoded, values, 2e-4)
	case assay.Encoding_ENCODING_INT8_BYTES:
		return same(decoded, values, float64(scale)/2+1e-5)
	case assay.Encoding_ENCODING_BINARY_BYTES:
		for i, value := range values {
			// A number that is all but zero may fall on either side of it.
			if math.Abs(float64(value)) > 1e-5 && (value > 0) != (decoded[i] == 1) {
				return fmt.Errorf("bit %d is %v for %v", i, decoded[i], value)
			}
		}
		return nil
	default:
		return same(decoded, values, 1e-5)
	}
}
