//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// serveApp starts an application, which answers with what it has learned.
func (c *cloud) serveApp(pod host, name string) error {
	return c.serve(pod, appPort, nil, func(w http.ResponseWriter, r *http.Request) {
		client, scheme, ingress := r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Ingress")
		fmt.Fprintf(w, "%s: hello %s, by %s through %s\n", name, client, scheme, ingress)
	})
}

// quiet is for servers whose clients are asked what they have seen.
var quiet = log.New(io.Discard, "", 0)

// serve starts a server in a pod.
func (c *cloud) serve(pod host, port uint16, config *tls.Config, handler http.HandlerFunc) error {
	var l net.Listener
	err := pod.Do(func() (err error) { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)); return err })
	if err != nil {
		return err
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: patience, ErrorLog: quiet}
	go func() { _ = server.Serve(l) }() // until Close
	c.atEnd(server.Close)
	return nil
}

// nginxConfig needs no privileges: nginx writes to its directory alone, and keeps the
// user, of whom a user namespace has only one.
const nginxConfig = `
daemon off;
master_process off;
user root root;
pid DIR/pid;
error_log stderr;
events { }
http {
	access_log off;
	client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3; uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
	server {
		listen 8080;
		listen 8443 ssl;
		ssl_certificate     DIR/certificate;
		ssl_certificate_key DIR/key;
		proxy_set_header X-Forwarded-For   $remote_addr;
		proxy_set_header X-Forwarded-Proto $scheme;
		proxy_set_header X-Ingress         INGRESS;
		location = /healthz { return 200 "healthy"; }
		location /app-a { proxy_pass http://10.96.0.20; }
		location /app-b { proxy_pass http://10.96.0.21; }
	}
}
`

// startNginx starts nginx in the pod of the ingress, and waits until it answers.
func (c *cloud) startNginx(ctx context.Context, program string, m *machine) error {
	dir := filepath.Join(c.dir, m.ingress.Name)
	config := strings.NewReplacer("DIR", dir, "INGRESS", m.ingress.Name).Replace(nginxConfig)
	err := os.Mkdir(dir, 0o700)
	for name, text := range map[string][]byte{"config": []byte(config), "certificate": c.cert.certificate, "key": c.cert.key} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd := exec.Command(program, "-e", "stderr", "-p", dir, "-c", "config")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.ingress.Do(cmd.Start); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end(fmt.Errorf("nginx: %w\n%s", cmd.Wait(), &said))
	}()
	c.atEnd(func() error {
		_ = cmd.Process.Kill() // Ctrl-C may have ended it already.
		<-ended
		return nil
	})
	return await(ctx, "nginx answers", func() bool { return m.get(ctx, m.podURL("/healthz")) == healthy })
}

// startProxy starts a reverse proxy in the pod of the ingress, which does what nginx
// does by its configuration.
func (c *cloud) startProxy(m *machine) error {
	serve := func(w http.ResponseWriter, r *http.Request) {
		for _, a := range apps {
			if strings.HasPrefix(r.URL.Path, "/"+a.name) {
				m.proxyTo(a).ServeHTTP(w, r)
				return
			}
		}
		fmt.Fprint(w, "healthy")
	}
	return errors.Join(
		c.serve(m.ingress, ports[0].podPort, nil, serve),
		c.serve(m.ingress, ports[1].podPort, c.cert.server(), serve))
}

func (m *machine) proxyTo(a app) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: m.ingress.http.Transport,
		ErrorLog:  quiet,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: a.clusterIP.String()})
			r.SetXForwarded()
			r.Out.Header.Set("X-Ingress", m.ingress.Name)
		},
	}
}
