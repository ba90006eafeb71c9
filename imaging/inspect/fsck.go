package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twinkeel/twinkeel/imaging"
)

// checkers are the programs that check a file system as a whole. None of them writes: -n.
var checkers = map[string]struct {
	tool, pkg string
	args      []string
	offset    bool // it can be told where in a file the file system begins
}{
	imaging.FilesystemExt4: {"e2fsck", "e2fsprogs", []string{"-f", "-n"}, true},
	imaging.FilesystemVFAT: {"fsck.vfat", "dosfstools", []string{"-n"}, false},
}

// maxCheckerOutput is how much of what a checker says is repeated.
const maxCheckerOutput = 400

// runChecker checks the file system in a region with its own program. It returns nothing when all is well or nothing checks that kind.
func (d *Disk) runChecker(ctx context.Context, r imaging.Region, kind string, must bool) ([]problem, error) {
	c, ok := checkers[kind]
	if !ok {
		return nil, nil
	}
	tool, err := findTool(c.tool)
	if err != nil {
		if !must {
			return nil, nil
		}
		return []problem{{CodeCheckMissing, SeverityError, c.tool + " is not installed", "apt-get install " + c.pkg}}, nil
	}
	file, at := d.file, r.Offset
	if d.Format != FormatRaw || !c.offset {
		// The program sees only files: it gets a sparse copy.
		if file, err = d.copyOf(ctx, r); err != nil {
			return nil, err
		}
		defer file.Close()
		at = 0
	}
	// The file is handed over open. No name of it then has to pass through the program's own syntax.
	target := "/proc/self/fd/3"
	if at != 0 {
		target += fmt.Sprintf("?offset=%d", at)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, append(c.args, target)...)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	both := &limitedBuffer{&said, 64 << 10} // one for both, so that only one goroutine writes to it
	cmd.Stdout, cmd.Stderr = both, both
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil, nil
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("%s: %w", c.tool, err)
	}
	return []problem{{CodeFilesystemCheck, SeverityError, fmt.Sprintf("%s says: %s", c.tool, gist(said.String(), target)), ""}}, nil
}

// gist is what a checker says of the file system, in one line: not its name, version, phases and statistics.
func gist(text, target string) string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(strings.ReplaceAll(line, target+": ", ""))
		if line == "" || strings.HasPrefix(line, "e2fsck 1") || strings.HasPrefix(line, "fsck.fat 4") || strings.HasPrefix(line, "Pass ") || strings.HasPrefix(line, target) {
			continue
		}
		lines = append(lines, line)
	}
	out := strings.Join(lines, "; ")
	if len(out) > maxCheckerOutput {
		out = strings.ToValidUTF8(out[:maxCheckerOutput], "") + " …"
	}
	return out
}

type limitedBuffer struct {
	b    *bytes.Buffer
	left int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.b.Write(p[:n])
	return len(p), nil
}

// copyOf makes a sparse copy of a region in a file without a name.
func (d *Disk) copyOf(ctx context.Context, r imaging.Region) (*os.File, error) {
	f, err := os.CreateTemp("", "twinkeel-partition-")
	if err != nil {
		return nil, fmt.Errorf("copying partition %s: %w", Title(r), err)
	}
	os.Remove(f.Name())
	if err := imaging.FillFile(ctx, f, d.Section(r)); err != nil {
		f.Close()
		return nil, fmt.Errorf("copying partition %s: %w", Title(r), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// findTool also looks where Debian keeps programs that an ordinary user's PATH lacks.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
