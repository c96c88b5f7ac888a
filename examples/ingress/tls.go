//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"time"
)

const siteName = "shop.example"

// certificate is that of the site, which only the ingress has. Whoever trusts it
// alone can speak with nobody in between.
type certificate struct {
	certificate, key []byte // PEM
	pair             tls.Certificate
}

// newCertificate makes a certificate that signs itself.
func newCertificate() (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{siteName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	c := &certificate{
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
	c.pair, err = tls.X509KeyPair(c.certificate, c.key)
	return c, err
}

// trust is the configuration of a client.
func (c *certificate) trust() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.certificate)
	return &tls.Config{RootCAs: roots, ServerName: siteName, MinVersion: tls.VersionTLS12}
}

// server is that of a server.
func (c *certificate) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.pair}, MinVersion: tls.VersionTLS12}
}
