package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// manifests decodes all objects of deploy/base, in which no field may be unknown.
func manifests(t *testing.T) (out []metav1.Object) {
	t.Helper()
	kinds := map[string]func() metav1.Object{
		"v1 ServiceAccount":                               func() metav1.Object { return &v1.ServiceAccount{} },
		"rbac.authorization.k8s.io/v1 ClusterRole":        func() metav1.Object { return &rbacv1.ClusterRole{} },
		"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() metav1.Object { return &rbacv1.ClusterRoleBinding{} },
		"apps/v1 DaemonSet":                               func() metav1.Object { return &appsv1.DaemonSet{} },
	}
	err := filepath.WalkDir("deploy/base", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(document, &kind); err != nil {
				return err
			}
			empty, known := kinds[kind.APIVersion+" "+kind.Kind]
			if !known {
				t.Errorf("%s: unexpected %s %s", path, kind.APIVersion, kind.Kind)
				continue
			}
			object := empty()
			if err := yaml.UnmarshalStrict(document, object); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			out = append(out, object)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func find[T metav1.Object](t *testing.T) (out T) {
	t.Helper()
	for _, o := range manifests(t) {
		if found, ok := o.(T); ok {
			return found
		}
	}
	t.Fatalf("no %T", out)
	return out
}

// TestManifests: the manifests fit together, the privileges are the least, and the agent
// has the flags.
func TestManifests(t *testing.T) {
	account, role, binding := find[*v1.ServiceAccount](t), find[*rbacv1.ClusterRole](t), find[*rbacv1.ClusterRoleBinding](t)
	set := find[*appsv1.DaemonSet](t)
	if binding.RoleRef.Name != role.Name || binding.Subjects[0].Name != account.Name || binding.Subjects[0].Namespace != account.Namespace {
		t.Errorf("the binding %+v is not of role %s and account %s", binding, role.Name, account.Name)
	}
	for _, r := range role.Rules {
		if all := slices.Concat(r.APIGroups, r.Resources, r.Verbs); slices.Contains(all, "*") || slices.Contains(r.Verbs, "get") {
			t.Errorf("more than is needed: %+v", r)
		}
	}
	pod := set.Spec.Template.Spec
	if pod.ServiceAccountName != account.Name || set.Namespace != account.Namespace || !pod.HostNetwork {
		t.Errorf("account %q, namespace %q, host network %v", pod.ServiceAccountName, set.Namespace, pod.HostNetwork)
	}
	for key, value := range set.Spec.Selector.MatchLabels {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("the pods do not have the label %s=%s", key, value)
		}
	}
	s := pod.Containers[0].SecurityContext
	if s.Privileged != nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Add, []v1.Capability{"NET_ADMIN"}) || !slices.Equal(s.Capabilities.Drop, []v1.Capability{"ALL"}) {
		t.Errorf("privileges: %+v", s)
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		flagsOf(t, c)
	}
}

// flagsOf are the flags of a container on a node.
func flagsOf(t *testing.T, c v1.Container) *flags {
	t.Helper()
	f, err := parseFlags(strings.Split(strings.ReplaceAll(strings.Join(c.Args, " "), "$(NODE_NAME)", "node-1"), " "))
	if err != nil {
		t.Fatalf("container %s: %v", c.Name, err)
	}
	return f
}

// TestProbes: the kubelet asks where the agent answers.
func TestProbes(t *testing.T) {
	agent := find[*appsv1.DaemonSet](t).Spec.Template.Spec.Containers[0]
	at := flagsOf(t, agent).healthz
	for path, probe := range map[string]*v1.Probe{"/healthz": agent.ReadinessProbe, "/livez": agent.LivenessProbe} {
		if got := fmt.Sprintf("0.0.0.0:%d%s", probe.HTTPGet.Port.IntValue(), probe.HTTPGet.Path); got != at+path {
			t.Errorf("a probe asks %s, not %s", got, at+path)
		}
	}
}
