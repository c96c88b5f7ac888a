//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/nftdp/go-nftdp/nftdp"
)

// jsonSections splits a JSON file.
func jsonSections(data []byte) (parts, error) {
	if !json.Valid(data) || !utf8.Valid(data) {
		_, err := nftdp.ParseServices(data) // it names the line
		return nil, err
	}
	found := parts{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	first, err := decoder.Token()
	switch {
	case err != nil:
		return nil, err
	case first == json.Delim('['):
		return found, found.add("services", string(data), 1)
	case first != json.Delim('{'):
		return nil, &nftdp.FieldError{Reason: topLevel, Line: 1}
	}
	for decoder.More() {
		if err := jsonField(data, decoder, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// jsonField reads one field of the outermost object.
func jsonField(data []byte, decoder *json.Decoder, found parts) error {
	key, err := decoder.Token()
	if err != nil {
		return err
	}
	name, _ := key.(string)
	line := lines(data[:decoder.InputOffset()])
	var value json.RawMessage
	if err := decoder.Decode(&value); err != nil {
		return err
	}
	if found[name] != nil {
		return &nftdp.FieldError{Reason: name + " occurs twice: remove one", Line: line + 1}
	}
	begin := int(decoder.InputOffset()) - len(value)
	return found.add(name, strings.Repeat("\n", lines(data[:begin]))+string(value), line+1)
}

// lines counts the ends of lines.
func lines(data []byte) int { return bytes.Count(data, []byte("\n")) }
