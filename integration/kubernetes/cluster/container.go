//go:build linux

package cluster

import (
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// StartContainer runs a container of the agent's as it would run in a pod on the host's
// network: with its arguments, its environment, its capabilities and a ServiceAccount's
// files, which are in the directory secrets. Its image is not used. The values of
// variables that come from elsewhere are in env, as far as they exist.
func (n *Node) StartContainer(c *corev1.Container, env map[string]string, secrets string) (*Process, error) {
	// The first arguments are of the script.
	args := []string{"--mount", "sh", "-ec", containerScript, "sh", secrets, capabilities(c.SecurityContext), "env"}
	var references []string
	for _, v := range c.Env {
		value, ok := env[v.Name]
		if v.ValueFrom == nil {
			value, ok = v.Value, true
		}
		if ok {
			args = append(args, v.Name+"="+value)
			references = append(references, "$("+v.Name+")", value)
		}
	}
	args = append(args, n.bin.Agent)
	for _, a := range c.Args {
		args = append(args, strings.NewReplacer(references...).Replace(a))
	}
	return Start(n.Namespace, n.dir, c.Name+"-"+n.Name, "unshare", args...)
}

// containerScript runs in a mount namespace of its own.
const containerScript = `
mount -t tmpfs none "$(readlink -f /var/run)"
mkdir -p /var/run/secrets/kubernetes.io
cp -r "$1" /var/run/secrets/kubernetes.io/serviceaccount
privileges=$2
shift 2
exec $privileges "$@"
`

// capabilities returns the beginning of a command that has those of a container.
func capabilities(s *corev1.SecurityContext) string {
	if s != nil && s.Privileged != nil && *s.Privileged {
		return ""
	}
	list := []string{"-all"}
	if s != nil && s.Capabilities != nil {
		for _, add := range s.Capabilities.Add {
			list = append(list, "+"+strings.ToLower(string(add)))
		}
	}
	return fmt.Sprintf("setpriv --no-new-privs --inh-caps %s --bounding-set %[1]s", strings.Join(list, ","))
}

// Connected reports whether a process on the node has a connection to the API server.
func (n *Node) Connected() (is bool, err error) {
	const established = "01" // linux/net/tcp_states.h
	err = n.Do(func() error {
		// Not /proc/net: that is the namespace of the process's first thread.
		table, err := os.ReadFile("/proc/thread-self/net/tcp")
		port := fmt.Sprintf(":%04X", APIServer.Port())
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			is = is || len(f) > 3 && strings.HasSuffix(f[2], port) && f[3] == established
		}
		return err
	})
	return is, err
}
