package cli

import (
	"io/fs"
	"testing"
)

func TestModeText(t *testing.T) {
	t.Parallel()
	for want, mode := range map[string]fs.FileMode{
		"-rw-r--r--": 0o644,
		"drwxr-xr-x": fs.ModeDir | 0o755,
		"lrwxrwxrwx": fs.ModeSymlink | 0o777,
		"-rwsr-xr-x": fs.ModeSetuid | 0o755,
		"-rwSr-Sr--": fs.ModeSetuid | fs.ModeSetgid | 0o644,
		"drwxrwxrwt": fs.ModeDir | fs.ModeSticky | 0o777,
		"crw-rw-rw-": fs.ModeDevice | fs.ModeCharDevice | 0o666,
		"brw-rw----": fs.ModeDevice | 0o660,
		"prw-------": fs.ModeNamedPipe | 0o600,
		"srwx------": fs.ModeSocket | 0o700,
	} {
		if got := modeText(mode); got != want {
			t.Errorf("%v: %s, not %s", mode, got, want)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	if got := oneLine("a\nb\tc\x1b[31m"); got != "a\uFFFDb\uFFFDc\uFFFD[31m" {
		t.Errorf("%q", got)
	}
}
