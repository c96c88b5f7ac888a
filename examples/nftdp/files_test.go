//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is wrong with files is reported all at once, with file and line.
func TestReadRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{
			"a field",
			map[string]string{"a.yaml": "- name: web\n  frontends:\n  - port: 80\n    colour: red\n"},
			`a.yaml:4: service "web": frontends[0].colour: is unknown: known are addr, port, endPort, policy, masquerade, masqueradeClients, allow, deny, noBackend`,
		},
		{"a field in JSON", map[string]string{"a.json": "[{\n\"name\": \"web\",\n\"frontends\": [{\"prot\": 80}]}]"}, `
a.json:3: service "web": frontends[0].prot: is unknown: did you mean "port"?`},
		{"a field that occurs twice", map[string]string{"a.yaml": "- name: web\n  name: web\n"}, `a.yaml:2: service "web": name: occurs twice: remove one`},
		{"null", map[string]string{"a.yaml": "services:\n- name: web\n  frontends:\n  - port:\n"}, `a.yaml:4: service "web": frontends[0].port: null is not a whole number from 0 to 65535`},
		{"no list", map[string]string{"a.yaml": "\nservices: {a: 1}\n"}, `a.yaml:2: services is not a list`},
		{"no list in JSON", map[string]string{"a.json": "{\n\"services\": 1}"}, `a.json:2: services is not a list`},
		{"a field of the file", map[string]string{"a.yaml": "servces: []\n"}, `a.yaml:1: "servces" is unknown: a file is a list of services, or has the fields services and config`},
		{"a section twice", map[string]string{"a.json": "{\"services\": [],\n\"services\": []}"}, `a.json:2: services occurs twice: remove one`},
		{"a section twice in YAML", map[string]string{"a.yaml": "services: []\nservices: []"}, `a.yaml:2: services occurs twice: remove one`},
		{"text", map[string]string{"a.yaml": "hello\n"}, `a.yaml:1: a file is a list of services, or has the fields services and config`},
		{"no YAML", map[string]string{"a.yaml": "- name: web\n  frontends: [\n"}, `a.yaml:3: did not find expected node content`},
		{"no JSON", map[string]string{"a.json": "[\n{\"name\": }]"}, `a.json:2: invalid character '}' looking for beginning of value`},
		{"a tag", map[string]string{"a.yaml": "- name: !secret web\n"}, `a.yaml:1: the tag !secret is unknown: remove it`},
		{"an alias of itself", map[string]string{"a.yaml": "- &a\n  name: web\n  frontends: [*a]\n"}, `a.yaml:3: has too many values, or values too deep in each other`},
		{
			"a configuration",
			map[string]string{"a.yaml": "config:\n  table: a b\n  nodeAddrs:\n  - 10.0.0.0/8\n  - 10.0.0.1\nservices: []\n"},
			`a.yaml:5: config: nodeAddrs[1]: "10.0.0.1" is not an address and a length, as in "10.0.0.0/8"`,
		},
		{"two configurations", map[string]string{"a.yaml": "config: {}\n", "b.json": "{\"config\": {}}"}, `a.yaml and b.json: both have a config: keep one`},
		{
			"several files", map[string]string{
				"a.yaml": "services:\n- name: web\n  frontends:\n  - port: 80\n---\n- name: dns\n  frontends:\n  - port: 0\n",
				"b.json": "{\"services\": [\n {\"name\": \"other\",\n  \"frontends\": [{\"port\": 80}]}]}",
				"c.yml":  "- name: web\n",
			}, `
a.yaml:8: service "dns": frontends[0].port: is 0: give a port from 1 to 65535
b.json:3: service "other": frontends[0]: tcp node-wide port 80 is already a frontend of service "web"
c.yml:1: service "web": name: services[3] has the name of services[0]: choose another`,
		},
		{"a directory without files", map[string]string{"a.txt": ""}, `.: no file in this directory ends in .yaml, .yml or .json`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for name, text := range c.files {
				write(t, name, text)
			}
			_, err := read([]string{"."}, nil)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// YAML, JSON, several files and documents, directories and standard input say the same.
func TestRead(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "one.json", `{"config": {"localhost": true}, "services": [
		{"name": "web", "frontends": [{"port": 80}], "backends": [{"addr": "10.0.0.1:80"}], "affinity": "10m"},
		{"name": "dns", "protocol": "udp", "frontends": [{"addr": "10.96.0.1", "port": 53, "allow": ["10.0.0.0/8"]}]}]}`)
	write(t, "one.yaml", `
config: {localhost: true}
services:
- name: web
  frontends: &ports
  - port: 0x50
  backends:
  - addr: 10.0.0.1:80
  affinity: 10m
- {name: "dns", protocol: udp, frontends: [{addr: 10.96.0.1, port: 53, allow: [10.0.0.0/8]}]}
`)
	if err := os.Mkdir("many", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join("many", "1.yaml"), "---\nconfig: {localhost: true}\n---\n- name: web\n  frontends: [{port: 80}]\n  backends: [{addr: '10.0.0.1:80'}]\n  affinity: 10m\n---\n")
	write(t, filepath.Join("many", "2.json"), `[{"name": "dns", "protocol": "udp", "frontends": [{"addr": "10.96.0.1", "port": 53, "allow": ["10.0.0.0/8"]}]}]`)
	write(t, filepath.Join("many", "3.yaml"), "# nothing yet\n")
	write(t, filepath.Join("many", "4.json"), "[]")
	want, err := read([]string{"one.json"}, nil)
	if err != nil || len(want.services) != 2 || !want.config.Localhost {
		t.Fatal(want, err)
	}
	yaml, err := os.ReadFile("one.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, paths := range []string{"one.yaml", "many", "-"} {
		got, err := read([]string{paths}, strings.NewReader(string(yaml)))
		if err != nil {
			t.Fatal(paths, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(wanted{}), cmp.Comparer(func(a, b interface{ String() string }) bool { return a.String() == b.String() })); diff != "" {
			t.Error(paths, diff)
		}
	}
}
