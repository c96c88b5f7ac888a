// Package nstest builds small networks out of network namespaces, for tests
// and for demonstrations: a client outside, a node, and backends
// behind the node, with servers that say who they are and which source
// address they saw.
//
// Everything lives in namespaces that only this process holds, by file
// descriptor. Nothing has a name on the host, so nothing is left behind when
// the process ends, however it ends.
//
// It needs the right to create network namespaces: either root, or a user
// namespace, which Reexec and Main enter by running the program again.
package nstest
