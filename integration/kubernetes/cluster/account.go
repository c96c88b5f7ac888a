//go:build linux

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Account is a ServiceAccount.
type Account struct{ Namespace, Name string }

// User is its name for the API server.
func (a Account) User() string {
	return fmt.Sprintf("system:serviceaccount:%s:%s", a.Namespace, a.Name)
}

// Secrets returns a directory with the files that a pod with the account has in
// /var/run/secrets/kubernetes.io/serviceaccount.
func (c *Control) Secrets(ctx context.Context, a Account) (dir string, err error) {
	request, err := c.Client.CoreV1().ServiceAccounts(a.Namespace).CreateToken(ctx, a.Name,
		&authentication.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s: %w", a.User(), err)
	}
	// It signs itself, so that it is its own authority.
	certificate, err := os.ReadFile(filepath.Join(c.file("certificates"), "apiserver.crt"))
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(c.dir, "secrets-"); err != nil {
		return "", err
	}
	return dir, errors.Join(
		os.WriteFile(filepath.Join(dir, "ca.crt"), certificate, 0o600),
		os.WriteFile(filepath.Join(dir, "namespace"), []byte(a.Namespace), 0o600),
		os.WriteFile(filepath.Join(dir, "token"), []byte(request.Status.Token), 0o600))
}

// May reports whether the API server grants something to an account. It takes note of
// roles and bindings some time after they were written.
func (c *Control) May(ctx context.Context, a Account, verb, group, resource string) (bool, error) {
	review, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{
			User: a.User(), ResourceAttributes: &authorization.ResourceAttributes{Verb: verb, Group: group, Resource: resource},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// auditPolicy makes the API server note what accounts ask for.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, userGroups: ["system:serviceaccounts"]}, {level: None}]
`

// Request is what an account asked the API server for, and the status of the answer.
type Request struct {
	Verb, Group, Resource string
	Code                  int
}

// Requests returns the requests for objects that an account has made, from the API
// server's audit log.
func (c *Control) Requests(a Account) (out []Request, err error) {
	log, err := os.ReadFile(c.file("audit"))
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewReader(bytes.NewReader(log)); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return out, nil // the last line is perhaps not complete
		}
		var event struct {
			Verb           string
			User           struct{ Username string }
			ObjectRef      *struct{ APIGroup, Resource string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		if o := event.ObjectRef; o != nil && event.User.Username == a.User() {
			out = append(out, Request{event.Verb, o.APIGroup, o.Resource, event.ResponseStatus.Code})
		}
	}
}
