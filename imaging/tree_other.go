//go:build !linux

package imaging

import "io/fs"

func hostAttributes(string, fs.FileInfo, *TreeFile, map[string]string) error { return nil }

func fileID(string) string { return "" }
