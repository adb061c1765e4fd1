#!/bin/sh
# Generates certificates and a token for local tests, valid for one day:
#
#   clients/certificates.sh DIRECTORY
#
# ca.pem signs server.pem (for localhost and 127.0.0.1) and client.pem; the keys are next to them. other-ca.pem is an unrelated
# certificate authority. tokens is for --token-file of the server, and token is the token that a client sends.
set -eu

command -v openssl >/dev/null || {
    echo "FAILED: openssl is not installed; the certificates for TLS are made by it" >&2
    exit 1
}
cd "$1"
umask 077

main() {
    # Else openssl would add extensions of its own.
    printf '[req]\ndistinguished_name = name\n[name]\n' >openssl.conf
    authority ca
    authority other-ca
    signed server -addext subjectAltName=DNS:localhost,IP:127.0.0.1
    signed client -addext subjectAltName=DNS:backend.example -addext extendedKeyUsage=clientAuth
    openssl rand -base64 24 >token
    printf 'backend:%s\n' "$(cat token)" >tokens
}

authority() {
    certificate "$1" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
}

signed() {
    name=$1
    shift
    certificate "$name" -CA ca.pem -CAkey ca.key -addext basicConstraints=critical,CA:FALSE "$@"
}

# The key is PKCS #8, which every library reads.
certificate() {
    name=$1
    shift
    openssl req -x509 -days 1 -config openssl.conf -subj "/CN=$name" -nodes -newkey ec \
        -pkeyopt ec_paramgen_curve:prime256v1 -keyout "$name.key" -out "$name.pem" "$@" 2>openssl.log || {
        cat openssl.log >&2
        exit 1
    }
}

main
