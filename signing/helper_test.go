package signing

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// helperDir has the real helpers, which are built when the first test wants them.
var helperDir string

var tokenHelperBuilt = sync.OnceValues(func() (string, error) { return buildHelper("twinkeel-pkcs11", "1") })

func TestMain(m *testing.M) {
	var err error
	if helperDir, err = os.MkdirTemp("", "twinkeel-helpers"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(helperDir)
	os.Exit(code)
}

// buildHelper uses the flags of the Makefile, and with them the same cache.
func buildHelper(name, cgo string) (string, error) {
	path := filepath.Join(helperDir, name)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, "github.com/twinkeel/twinkeel/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}
