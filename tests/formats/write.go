// Writes the tar ARGUMENT 1 of the directory ARGUMENT 2 in the format ARGUMENT 3.
package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	file, err := os.Create(os.Args[1])
	check(err)
	root := os.Args[2]
	formats := map[string]tar.Format{"gnu": tar.FormatGNU, "pax": tar.FormatPAX}
	writer := tar.NewWriter(file)
	check(filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		check(err)
		info, err := entry.Info()
		check(err)
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			link, err = os.Readlink(path)
			check(err)
		}
		header, err := tar.FileInfoHeader(info, link)
		check(err)
		header.Name, err = filepath.Rel(root, path)
		check(err)
		header.Format = formats[os.Args[3]]
		check(writer.WriteHeader(header))
		if header.Typeflag == tar.TypeReg {
			content, err := os.Open(path)
			check(err)
			_, err = io.Copy(writer, content)
			check(err)
			return content.Close()
		}
		return nil
	}))
	check(writer.Close())
	check(file.Close())
}
