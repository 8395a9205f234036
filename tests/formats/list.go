// What Go's archive/tar reads in the tars whose paths come on standard input, a
// line of JSON each: the members, or why Docker and containerd cannot unpack them.
package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

type member struct {
	Name, Link string // in hex
	Kind       string
	Size       int64
	Mode       int64
	Owner      [2]int64
	Time       [2]int64
	Device     [2]int64
	Xattrs     map[string]string // names and values in hex
	// sha256 of the file, holes and all; "" of long ones.
	Content string
}

func list(path string) ([]member, error) {
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	members := []member{}
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		one, err := unpacked(header, reader)
		if err != nil {
			return nil, err
		}
		members = append(members, *one)
	}
}

// What a runtime makes of a member, or that it cannot make anything of it.
func unpacked(header *tar.Header, reader *tar.Reader) (*member, error) {
	kinds := map[byte]string{
		'0': "file", '7': "file", 'S': "file", '1': "hard link", '2': "symlink",
		'3': "character", '4': "block", '5': "directory", '6': "fifo",
	}
	one := member{
		Name:   hex.EncodeToString([]byte(header.Name)),
		Kind:   kinds[header.Typeflag],
		Mode:   header.Mode & 07777,
		Owner:  [2]int64{int64(header.Uid), int64(header.Gid)},
		Time:   [2]int64{header.ModTime.Unix(), int64(header.ModTime.Nanosecond())},
		Xattrs: map[string]string{},
	}
	if one.Kind == "" || strings.Contains(header.Name, "\x00") || len(header.Name) > 4096 {
		return nil, fmt.Errorf("a name or type that cannot be: %q", header.Name)
	}
	numbers := one.Owner[:]
	switch one.Kind {
	case "hard link", "symlink":
		if header.Linkname == "" {
			return nil, errors.New("a link without target")
		}
		one.Link = hex.EncodeToString([]byte(header.Linkname))
	case "character", "block":
		one.Device = [2]int64{header.Devmajor, header.Devminor}
		numbers = append(numbers, one.Device[:]...)
	}
	for _, number := range numbers {
		if number != int64(uint32(number)) {
			return nil, fmt.Errorf("%d is no number of 32 bits", number)
		}
	}
	for keyword, value := range header.PAXRecords {
		name := strings.TrimPrefix(keyword, "SCHILY.xattr.")
		if name == "" {
			return nil, errors.New("an attribute without name")
		}
		if name != keyword {
			one.Xattrs[hex.EncodeToString([]byte(name))] = hex.EncodeToString([]byte(value))
		}
	}
	if one.Kind != "file" {
		return &one, nil
	}
	one.Size = header.Size
	hash := sha256.New()
	switch _, err := io.CopyN(hash, reader, 1<<20); {
	case errors.Is(err, io.EOF):
		one.Content = hex.EncodeToString(hash.Sum(nil))
	case err != nil:
		return nil, err
	}
	return &one, nil
}

func main() {
	output := json.NewEncoder(os.Stdout)
	for paths := bufio.NewScanner(os.Stdin); paths.Scan(); {
		members, err := list(paths.Text())
		answer := map[string]any{"members": members}
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		if err := output.Encode(answer); err != nil {
			panic(err)
		}
	}
}
