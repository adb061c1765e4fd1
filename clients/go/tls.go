package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// A bearer sends its token with each call, and with no call that is not over TLS.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// files is the directory of ../certificates.sh.
type files string

func (f files) path(name string) string { return filepath.Join(string(f), name) }

func (f files) withToken() (grpc.DialOption, error) {
	token, err := os.ReadFile(f.path("token"))
	return grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(token)))), err
}

// withTLS trusts servers of one authority, and shows them certificates, if there are any.
func (f files) withTLS(authority string, shown ...tls.Certificate) (grpc.DialOption, error) {
	pem, err := os.ReadFile(f.path(authority))
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", authority)
	}
	config := &tls.Config{RootCAs: trusted, Certificates: shown}
	return grpc.WithTransportCredentials(credentials.NewTLS(config)), nil
}

func (f files) clientCertificate() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(f.path("client.pem"), f.path("client.key"))
}

// The server has a certificate of ca.pem, and wants a token.
func aTokenLetsACallIn(address string, f files) func(context.Context, server) (string, error) {
	return func(ctx context.Context, _ server) (string, error) {
		trusting, errTLS := f.withTLS("ca.pem")
		distrusting, errOther := f.withTLS("other-ca.pem")
		token, errToken := f.withToken()
		if err := errors.Join(errTLS, errOther, errToken); err != nil {
			return "", err
		}
		if err := embedBy(ctx, address, trusting, token); err != nil {
			return "", err
		}
		if err := tokenIsMissing(embedBy(ctx, address, trusting)); err != nil {
			return "", err
		}
		if err := embedBy(ctx, address, distrusting, token); status.Code(err) != codes.Unavailable {
			return "", fmt.Errorf("with another authority the call ended with %v", err)
		}
		return "OK; without it UNAUTHENTICATED; another authority: UNAVAILABLE", nil
	}
}

// The server wants a certificate of its callers, too.
func aClientCertificateLetsACallIn(address string, f files) func(context.Context, server) (string, error) {
	return func(ctx context.Context, _ server) (string, error) {
		certificate, errPair := f.clientCertificate()
		showing, errTLS := f.withTLS("ca.pem", certificate)
		hiding, errHiding := f.withTLS("ca.pem")
		token, errToken := f.withToken()
		if err := errors.Join(errPair, errTLS, errHiding, errToken); err != nil {
			return "", err
		}
		if err := embedBy(ctx, address, showing, token); err != nil {
			return "", err
		}
		if err := tokenIsMissing(embedBy(ctx, address, showing)); err != nil {
			return "", err
		}
		if err := embedBy(ctx, address, hiding, token); status.Code(err) != codes.Unavailable {
			return "", fmt.Errorf("without a certificate the call ended with %v", err)
		}
		return "OK; without it UNAVAILABLE", nil
	}
}

// embedBy makes one call over a connection of its own.
func embedBy(ctx context.Context, address string, options ...grpc.DialOption) error {
	s, conn, err := connect(address, options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = embedGivesVectorsOfUnitLength(ctx, s)
	return err
}

func tokenIsMissing(err error) error {
	failure := status.Convert(err)
	if failure.Code() != codes.Unauthenticated || errorInfo(failure).GetReason() != "TOKEN_MISSING" {
		return fmt.Errorf("without a token the call ended with %v", err)
	}
	return nil
}
