//go:build linux

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binaries are the paths of the programs.
type Binaries struct {
	APIServer, KubeProxy, Kubectl, Agent string
}

// Commands of Kubernetes, which the module's go.mod pins as tools.
const (
	apiServerCommand = "k8s.io/kubernetes/cmd/kube-apiserver"
	kubeProxyCommand = "k8s.io/kubernetes/cmd/kube-proxy"
	kubectlCommand   = "k8s.io/kubernetes/cmd/kubectl"
)

// Build compiles the commands of Kubernetes into the user's cache directory, which takes
// minutes once and, with Go's build cache, a second later, and the agent into dir: another
// copy of this repository may be testing its own. It has to be called in the module's
// directory, as tests are.
func Build(dir string) (Binaries, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "nftdp-kubernetes")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Binaries{}, err
	}
	// The commands of Kubernetes with the versions of this module, the agent with those
	// of its own.
	if err := goBuild(cache, ".", "off", apiServerCommand, kubeProxyCommand, kubectlCommand); err != nil {
		return Binaries{}, err
	}
	if err := goBuild(dir, filepath.Join("..", "..", "examples", "kubeproxy"), "", "."); err != nil {
		return Binaries{}, err
	}
	return Binaries{
		APIServer: filepath.Join(cache, "kube-apiserver"),
		KubeProxy: filepath.Join(cache, "kube-proxy"),
		Kubectl:   filepath.Join(cache, "kubectl"),
		Agent:     filepath.Join(dir, "kubeproxy"),
	}, nil
}

// goBuild builds packages in a module's directory. The linker leaves a program alone
// that is up to date.
func goBuild(into, module, workspace string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", into + "/"}, packages...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK="+workspace)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", packages, err, out)
	}
	return nil
}
