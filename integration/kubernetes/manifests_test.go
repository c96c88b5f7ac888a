//go:build linux

package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// agentAccount is the agent's account in the manifests, and the name of all their objects.
var agentAccount = cluster.Account{Namespace: metav1.NamespaceSystem, Name: "nftdp"}

// manifests are those of examples/kubeproxy as the API server has them, until the end of
// a test.
type manifests struct {
	pod    corev1.PodSpec
	role   *rbacv1.ClusterRole
	before int // how many requests the account has made earlier
}

// applyManifests applies a directory of examples/kubeproxy/deploy, as an operator does it.
func applyManifests(t *testing.T, dir string) *manifests {
	t.Helper()
	dir = "../../examples/kubeproxy/deploy/" + dir
	t.Cleanup(func() {
		if _, err := control.Kubectl("", "delete", "--ignore-not-found", "-k", dir); err != nil {
			t.Error(err)
		}
	})
	_, err := control.Kubectl("", "apply", "-k", dir)
	set, err2 := control.Client.AppsV1().DaemonSets(agentAccount.Namespace).Get(t.Context(), agentAccount.Name, metav1.GetOptions{})
	role, err3 := control.Client.RbacV1().ClusterRoles().Get(t.Context(), agentAccount.Name, metav1.GetOptions{})
	requests, err4 := control.Requests(agentAccount)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return &manifests{podOf(set), role, len(requests)}
}

// podOf is a pod of the DaemonSet in a cluster whose pods have the addresses of ours.
func podOf(set *appsv1.DaemonSet) corev1.PodSpec {
	pod := set.Spec.Template.Spec
	pod.Containers[0].Args = append(pod.Containers[0].Args, fmt.Sprintf("--cluster-cidr=%v,%v", cluster.V4.PodNet, cluster.V6.PodNet))
	return pod
}

// run runs the pod's containers on a node with an account, which has its rights already,
// and returns the last.
func (m *manifests) run(w *world, node *cluster.Node, a cluster.Account) *cluster.Process {
	w.t.Helper()
	env := map[string]string{
		"NODE_NAME": node.Name, // the field spec.nodeName
		// Of the ConfigMap, or else as the kubelet sets it.
		"KUBERNETES_SERVICE_HOST": cluster.APIServer.Addr().String(),
		"KUBERNETES_SERVICE_PORT": fmt.Sprint(cluster.APIServer.Port()),
	}
	secrets, err := control.Secrets(w.t.Context(), a)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range m.pod.InitContainers {
		p, err := node.StartContainer(&m.pod.InitContainers[i], env, secrets)
		if err == nil {
			err = p.Wait()
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	p, err := node.StartContainer(&m.pod.Containers[0], env, secrets)
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxies[node] = p
	return p
}

// rights are all pairs of a verb and objects of a role: "list services".
func rights(role *rbacv1.ClusterRole) (out []string) {
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				out = append(out, right(verb, rule.APIGroups[0], resource))
			}
		}
	}
	slices.Sort(out)
	return out
}

func right(verb, group, resource string) string {
	return strings.TrimSuffix(verb+" "+resource+"."+group, ".")
}

// granted waits until the API server grants an account what a role has, and nothing
// else that the role of the manifests has.
func (w *world) granted(a cluster.Account, all, has []rbacv1.PolicyRule) {
	w.t.Helper()
	for _, rule := range all {
		for _, verb := range rule.Verbs {
			want := slices.ContainsFunc(has, func(r rbacv1.PolicyRule) bool { return r.Resources[0] == rule.Resources[0] })
			w.until(fmt.Sprintf("%s may %s %s", a.Name, verb, rule.Resources[0]), want, func() (bool, error) {
				return control.May(w.t.Context(), a, verb, rule.APIGroups[0], rule.Resources[0])
			})
		}
	}
}

// usesItsRights wants the agent to have used each right that its role has, and to have
// asked for nothing else.
func (w *world) usesItsRights(m *manifests) {
	w.t.Helper()
	w.eventually("the account has used each of its rights", func() error {
		requests, err := control.Requests(agentAccount)
		if err != nil {
			return err
		}
		var used []string
		for _, r := range requests[m.before:] {
			if r.Code == http.StatusForbidden {
				w.t.Fatalf("the role lacks a right: %+v", r)
			}
			used = append(used, right(r.Verb, r.Group, r.Resource))
		}
		slices.Sort(used)
		if used, want := slices.Compact(used), rights(m.role); !slices.Equal(used, want) {
			return fmt.Errorf("it has used %q of %q", used, want)
		}
		return nil
	})
}

// passesProbes wants the probes of the pod to succeed, at the agent's own port.
func (w *world) passesProbes(m *manifests, node *cluster.Node, port int) {
	w.t.Helper()
	agent := m.pod.Containers[0]
	for part, probe := range map[string]*corev1.Probe{`"nodeEligible":true`: agent.ReadinessProbe, `"healthy":true`: agent.LivenessProbe} {
		if got := probe.HTTPGet.Port.IntValue(); got != port {
			w.t.Errorf("the probe of %s asks port %d, not %d", probe.HTTPGet.Path, got, port)
		}
		w.wantAnswers(node, fmt.Sprintf("http://127.0.0.1:%d%s", port, probe.HTTPGet.Path), http.StatusOK, part)
	}
}

// provokeEvents makes a Service that wants an external address that another one has, which
// then takes a second one from it, so that the agent writes an Event and then that it
// happened again.
func (w *world) provokeEvents(change func(*corev1.Service)) {
	w.t.Helper()
	put := func(name string, externals ...byte) {
		w.putService(w.t, serviceCase{endpoints: "pod-a0", change: func(s *corev1.Service) {
			s.Name = name
			for _, n := range externals {
				s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, external(cluster.V4, n).String())
			}
			change(s)
		}})
	}
	times := func(n int32) {
		w.eventually(fmt.Sprintf("an Event says that it happened %d times", n), func() error {
			list, err := control.Client.EventsV1().Events(cluster.Space).List(w.t.Context(), metav1.ListOptions{})
			if err == nil && !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
				return e.Regarding.Name == "younger" && e.Reason == "AddressConflict" && (n == 1 || e.Series != nil && e.Series.Count == n)
			}) {
				err = fmt.Errorf("not one of %d", len(list.Items))
			}
			return err
		})
	}
	put("older", 8)
	put("younger", 8, 9)
	times(1)
	put("older", 8, 9)
	times(2)
}

// TestManifests applies what an operator applies, and runs the agent as its pod says,
// with the rights and privileges that it has there: it serves, and the API server
// refuses nothing and has granted nothing that is not used.
func TestManifests(t *testing.T) {
	m := applyManifests(t, "base")
	w := newWorld(t, 2)
	node := w.Nodes[0]
	w.granted(agentAccount, m.role.Rules, m.role.Rules)
	m.run(w, node, agentAccount)
	s := w.putService(t, serviceCase{change: withLoadBalancer, endpoints: "pod-a1"})
	w.sync()
	for family := range cluster.Families() {
		w.expect(t, "client", "tcp", serviceAddr(s, "lb", family), "pod-a1 from node-a")
		w.expect(t, "client", "udp", serviceAddr(s, "node-a", family), "pod-a1 from node-a")
		w.expect(t, "pod-a0", "tcp", serviceAddr(s, "cluster", family), "pod-a1 from pod-a0")
		w.expect(t, "pod-a0", "tcp", serviceAddr(s, "cluster:81", family), refused)
	}
	w.passesProbes(m, node, 10256)
	// The API server by its own Service.
	w.wantAnswers(node, "https://10.96.0.1/readyz", http.StatusOK, "ok")
	w.provokeEvents(func(*corev1.Service) {})
	w.usesItsRights(m)
}

// TestMissingRule takes each rule of the role away in turn, before the agent starts and
// while it runs: it names the right that is missing, and goes on when it is given back.
func TestMissingRule(t *testing.T) {
	m := applyManifests(t, "base")
	rules := m.role.Rules
	w := newWorld(t, slices.Repeat([]int{1}, len(rules))...)
	c := serviceCase{endpoints: "pod-a0"}
	to := serviceAddr(w.putService(t, c), "cluster", 0)
	accounts := make([]cluster.Account, len(rules))
	for i, node := range w.Nodes {
		accounts[i] = makeAccount(t, fmt.Sprintf("nftdp-%d", i), without(rules, i))
		w.granted(accounts[i], rules, without(rules, i))
		m.run(w, node, accounts[i])
	}
	reads := func(i int) bool { return slices.Contains(rules[i].Verbs, "list") }
	for i, node := range w.Nodes {
		p, resource := w.proxies[node], rules[i].Resources[0]
		if reads(i) {
			w.printed(p, "refuses to list and watch "+resource, accounts[i].User(), "is forbidden", "needs that rule")
			if err := p.Wait(); err == nil {
				t.Errorf("without the rule for %s the agent ends without an error", resource)
			}
			continue
		}
		w.printed(p, "is forbidden", accounts[i].User(), fmt.Sprintf("cannot create resource %q", resource))
		w.becomes("pod-"+node.Name[5:]+"0", "tcp", to, w.seen(node))
	}
	for i, node := range w.Nodes {
		setRules(t, accounts[i], rules)
		w.granted(accounts[i], rules, rules)
		if reads(i) {
			m.run(w, node, accounts[i]) // as the kubelet does
		}
	}
	w.sync()

	// It does not end when it loses a right later.
	for i := range rules {
		setRules(t, accounts[i], without(rules, i))
		w.granted(accounts[i], rules, without(rules, i))
	}
	if err := control.CutWatches(); err != nil {
		t.Fatal(err)
	}
	c.endpoints = ""
	w.putService(t, c)
	for _, node := range w.Nodes {
		w.until(node.Name+" has connections to the API server", false, node.Connected)
	}
	if err := control.AllowWatches(); err != nil {
		t.Fatal(err)
	}
	for i, node := range w.Nodes {
		if reads(i) {
			w.printed(w.proxies[node], "cannot be followed", accounts[i].User(), fmt.Sprintf("resource %q", rules[i].Resources[0]))
		}
		setRules(t, accounts[i], rules)
	}
	w.sync()
	w.provokeEvents(func(*corev1.Service) {})
	for i := range rules {
		w.until(accounts[i].Name+" writes Events", true, func() (bool, error) {
			requests, err := control.Requests(accounts[i])
			return slices.ContainsFunc(requests, func(r cluster.Request) bool {
				return r.Resource == "events" && r.Code == http.StatusCreated
			}), err
		})
	}
}

// seen is what a node's first pod sees of the first pod of the first node through a
// ClusterIP.
func (w *world) seen(node *cluster.Node) string {
	if node == w.Nodes[0] {
		return "pod-a0 from node-a"
	}
	return "pod-a0 from " + node.Pods[0].Name
}

// printed waits until a process has printed a line with all words.
func (w *world) printed(p *cluster.Process, words ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s prints %q", p.Name, words), func() error {
		for line := range strings.Lines(p.Tail()) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(strings.ReplaceAll(line, `\"`, `"`), word) }) {
				return nil
			}
		}
		return errors.New("it has not")
	})
}

func without(rules []rbacv1.PolicyRule, i int) []rbacv1.PolicyRule {
	return slices.Delete(slices.Clone(rules), i, i+1)
}

// makeAccount makes an account like that of the manifests with a role of its own, until
// the end of the test.
func makeAccount(t *testing.T, name string, rules []rbacv1.PolicyRule) cluster.Account {
	t.Helper()
	a := cluster.Account{Namespace: agentAccount.Namespace, Name: name}
	meta := metav1.ObjectMeta{Name: name}
	rbac, accounts := control.Client.RbacV1(), control.Client.CoreV1().ServiceAccounts(a.Namespace)
	_, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, err2 := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	_, err3 := rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: a.Namespace, Name: name}},
	}, metav1.CreateOptions{})
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		err := errors.Join(
			rbac.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}),
			rbac.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}),
			accounts.Delete(ctx, name, metav1.DeleteOptions{}))
		if err != nil {
			t.Error(err)
		}
	})
	return a
}

// setRules changes what an account may do.
func setRules(t *testing.T, a cluster.Account, rules []rbacv1.PolicyRule) {
	t.Helper()
	_, err := control.Client.RbacV1().ClusterRoles().Update(t.Context(),
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: a.Name}, Rules: rules}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
