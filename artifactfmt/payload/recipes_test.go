package payload_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twinkeel/twinkeel/artifactfmt"
	"github.com/twinkeel/twinkeel/artifactfmt/payload"
)

type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.b[off:], p), nil }

// write makes an artifact of the contents.
func write(t *testing.T, c *payload.Contents) []byte {
	t.Helper()
	var out memory
	_, err := artifactfmt.Write(t.Context(), &out, &artifactfmt.Artifact{
		Name: "r1", DeviceTypes: []string{"board"}, PayloadType: c.Type, Files: c.Files, MetaData: c.MetaData, Software: c.Software,
	})
	if err != nil {
		t.Fatalf("writing the artifact: %v", err)
	}
	return out.b
}

func makePayload(t *testing.T, kind string, o payload.Options) *payload.Contents {
	t.Helper()
	c, err := payload.Make(kind, o)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func put(t *testing.T, path, content string, mode fs.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// device runs a real update module as Mender's clients do.
type device struct {
	t      *testing.T
	module string
	work   string
	env    []string
}

// newDevice unpacks an artifact the way the update module finds it: docs/update-modules-v3-file-api of mender.
func newDevice(t *testing.T, kind string, art []byte) *device {
	t.Helper()
	module := filepath.Join("/usr/share/mender/modules/v3", kind)
	if _, err := os.Stat(module); err != nil {
		t.Skipf("the update module %s is not installed (Debian package mender-client)", kind)
	}
	d := &device{t: t, module: module, work: t.TempDir(), env: os.Environ()}
	unpack(t, art, d.work)
	return d
}

func unpack(t *testing.T, art []byte, work string) {
	t.Helper()
	r, err := artifactfmt.NewReader(bytes.NewReader(art), artifactfmt.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(work, "version"), "3\n", 0o644)
	put(t, filepath.Join(work, "header/meta-data"), string(r.Info().MetaData), 0o644)
	put(t, filepath.Join(work, "header/payload_type"), r.Info().PayloadType, 0o644)
	put(t, filepath.Join(work, "header/header-info"), `{"artifact_provides":{"artifact_name":"r1"}}`, 0o644)
	for _, dir := range []string{"files", "tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(work, "files", f.Name), string(b), 0o600)
	}
}

// fake puts a program first in PATH that writes its arguments to the returned file.
func (d *device) fake(name string) string {
	d.t.Helper()
	bin, log := d.t.TempDir(), filepath.Join(d.t.TempDir(), "log")
	put(d.t, filepath.Join(bin, name), "#!/bin/sh\necho \"$@\" >> "+log+"\n", 0o755)
	d.env = append(d.env, "PATH="+bin+":"+os.Getenv("PATH"))
	return log
}

func (d *device) run(state string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), d.module, state, d.work)
	cmd.Dir, cmd.Env = d.work, d.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *device) must(states ...string) {
	d.t.Helper()
	for _, state := range states {
		if out, err := d.run(state); err != nil {
			d.t.Fatalf("%s %s: %v\n%s", d.module, state, err, out)
		}
	}
}

func expectFile(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != content {
		t.Errorf("%s holds %q, want %q", path, b, content)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, mode)
	}
}

func TestSingleFile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		source     string
		mode       fs.FileMode
		dest       string // behind the test's directory
		fileName   string
		permission string
		want       string
		wantMode   fs.FileMode
	}{
		"path":               {"app.conf", 0o640, "/etc/app/app.conf", "", "", "/etc/app/app.conf", 0o640},
		"another name":       {"app-v2.conf", 0o640, "/etc/app.conf", "", "0755", "/etc/app.conf", 0o755},
		"directory":          {"app.conf", 0o600, "/a dir/", "", "", "/a dir/app.conf", 0o600},
		"directory and name": {"app.conf", 0o644, "/dir", "x.conf", "4755", "/dir/x.conf", 0o755 | fs.ModeSetuid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := put(t, filepath.Join(t.TempDir(), test.source), "new\n", test.mode)
			root := t.TempDir()
			o := payload.Options{Files: []string{source}, Destination: root + test.dest, FileName: test.fileName, Mode: test.permission}
			art := write(t, makePayload(t, "single-file", o))
			target := filepath.Join(root, test.want)
			put(t, target, "old\n", 0o604)
			d := newDevice(t, "single-file", art)
			d.must("Download", "ArtifactInstall")
			expectFile(t, target, "new\n", test.wantMode)
			d.must("ArtifactRollback")
			expectFile(t, target, "old\n", 0o604)
			if again := write(t, makePayload(t, "single-file", o)); !bytes.Equal(art, again) {
				t.Error("the same input gave other bytes")
			}
		})
	}
}

// tree makes a directory with a bit of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	put(t, filepath.Join(dir, "bin/app"), "#!/bin/sh\n", 0o755)
	put(t, filepath.Join(dir, "etc/secret"), "s", 0o600)
	put(t, filepath.Join(dir, "empty"), "", 0o644)
	put(t, filepath.Join(dir, "block"), strings.Repeat("x", 512), 0o444)
	put(t, filepath.Join(dir, "a name with blanks and ü"), "u", 0o644)
	long := strings.Repeat("long-", 30)
	put(t, filepath.Join(dir, long, long), "l", 0o644)
	if err := os.Symlink("../etc/secret", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/"+long+long, filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

// describe lists a tree: mode, content or target by path.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += " " + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " " + target
		}
		all[rel] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	want := describe(t, dir)
	dest := filepath.Join(t.TempDir(), "opt/app")
	put(t, filepath.Join(dest, "old"), "old", 0o644)
	before := describe(t, dest)
	o := payload.Options{Directory: dir, Destination: dest}
	art := write(t, makePayload(t, "directory", o))

	d := newDevice(t, "directory", art)
	d.must("ArtifactInstall")
	if diff := cmp.Diff(want, describe(t, dest)); diff != "" {
		t.Errorf("what was installed differs: %s", diff)
	}
	d.must("ArtifactRollback")
	if diff := cmp.Diff(before, describe(t, dest)); diff != "" {
		t.Errorf("what was rolled back differs: %s", diff)
	}

	// BusyBox, which devices have instead of GNU tar, unpacks the same.
	if busybox, err := exec.LookPath("busybox"); err != nil {
		t.Log("busybox is not installed; not tested with its tar")
	} else {
		other := t.TempDir()
		cmd := exec.CommandContext(t.Context(), busybox, "tar", "-xf", filepath.Join(d.work, "files/update.tar"), "-C", other)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("busybox tar: %v %s", err, out)
		}
		if diff := cmp.Diff(want, describe(t, other)); diff != "" {
			t.Errorf("what BusyBox unpacks differs: %s", diff)
		}
	}

	// Another directory with the same content, made at another time in another order, gives the same bytes.
	other := filepath.Join(t.TempDir(), "other")
	if out, err := exec.CommandContext(t.Context(), "cp", "-R", "--preserve=mode", dir, other).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v %s", err, out)
	}
	if err := os.Chtimes(filepath.Join(other, "empty"), time.Now(), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(filepath.Join(other, "empty"), 1234, 4321); err != nil {
			t.Fatal(err)
		}
	}
	if again := write(t, makePayload(t, "directory", payload.Options{Directory: other, Destination: dest})); !bytes.Equal(art, again) {
		t.Error("the same content gave other bytes")
	}
}

func TestKeepOwners(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := tree(t)
	if err := os.Lchown(filepath.Join(dir, "empty"), 1234, 4321); err != nil {
		t.Fatal(err)
	}
	for keep, want := range map[bool][2]int{false: {0, 0}, true: {1234, 4321}} {
		c := makePayload(t, "directory", payload.Options{Directory: dir, Destination: "/opt/x", KeepOwners: keep, Epoch: time.Unix(1e9, 0)})
		for h := range members(t, c, "update.tar", false) {
			if h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(time.Unix(1e9, 0)) {
				t.Errorf("%s has names or times of this machine: %+v", h.Name, h)
			}
			if h.Name == "./empty" && (h.Uid != want[0] || h.Gid != want[1]) {
				t.Errorf("keep %v: %d:%d, want %v", keep, h.Uid, h.Gid, want)
			}
		}
	}
}

// members reads an archive of a payload, which has exactly the size it claims.
func members(t *testing.T, c *payload.Contents, name string, zipped bool) map[*tar.Header]string {
	t.Helper()
	for _, f := range c.Files {
		if f.Name != name {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != f.Size {
			t.Fatalf("%s has %d bytes and claims %d", name, len(b), f.Size)
		}
		var in io.Reader = bytes.NewReader(b)
		if zipped {
			if in, err = gzip.NewReader(in); err != nil {
				t.Fatal(err)
			}
		}
		out := make(map[*tar.Header]string)
		tr := tar.NewReader(in)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				// gzip checks its sum at the end alone.
				if _, err := io.Copy(io.Discard, in); err != nil {
					t.Fatal(err)
				}
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			out[h] = string(content)
		}
	}
	t.Fatalf("the payload has no %s", name)
	return nil
}

func TestDirectoryChanges(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"grown":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "empty"), []byte("more"), 0o600) },
		"shrunk":  func(dir string) error { return os.Truncate(filepath.Join(dir, "bin/app"), 3) },
		"touched": func(dir string) error { return os.Chtimes(filepath.Join(dir, "bin/app"), time.Time{}, time.Unix(1, 0)) },
		"mode":    func(dir string) error { return os.Chmod(filepath.Join(dir, "bin/app"), 0o711) },
		"removed": func(dir string) error { return os.Remove(filepath.Join(dir, "bin/app")) },
		"replaced": func(dir string) error {
			return os.Rename(filepath.Join(dir, "etc/secret"), filepath.Join(dir, "bin/app"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tree(t)
			c := makePayload(t, "directory", payload.Options{Directory: dir, Destination: "/opt/x"})
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			var out memory
			_, err := artifactfmt.Write(t.Context(), &out, &artifactfmt.Artifact{
				Name: "r1", DeviceTypes: []string{"board"}, PayloadType: c.Type, Files: c.Files,
			})
			if err == nil {
				t.Error("an artifact was written of a directory that changed")
			}
		})
	}
}

func TestDirectoryRefusesSpecialFiles(t *testing.T) {
	t.Parallel()
	dir := tree(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := payload.Make("directory", payload.Options{Directory: dir, Destination: "/opt/x"})
	if err == nil || !strings.Contains(err.Error(), "pipe is neither") {
		t.Errorf("a pipe: %v", err)
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	dir := t.TempDir()
	var files []string
	for _, n := range []string{"20-second", "10-first"} {
		files = append(files, put(t, filepath.Join(dir, n), fmt.Sprintf("#!/bin/sh\necho %s >> %s\n", n, out), 0o600))
	}
	d := newDevice(t, "script", write(t, makePayload(t, "script", payload.Options{Files: files})))
	d.must("ArtifactInstall")
	expectFile(t, out, "10-first\n20-second\n", 0o644)
}

func TestPackages(t *testing.T) {
	t.Parallel()
	for kind, test := range map[string]struct{ program, magic, suffix, want string }{
		"deb": {"dpkg", "!<arch>\ndebian-binary   ", ".deb", "-i %[1]s/a.deb %[1]s/b___1.deb\n"},
		"rpm": {"rpm", "\xed\xab\xee\xdb\x03", ".rpm", "-U -v --force %[1]s/a.rpm %[1]s/b___1.rpm\n"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			a := put(t, filepath.Join(dir, "a"+test.suffix), test.magic, 0o644)
			b := put(t, filepath.Join(dir, "b++~1"+test.suffix), test.magic+"b", 0o644)
			d := newDevice(t, kind, write(t, makePayload(t, kind, payload.Options{Files: []string{b, a}})))
			log := d.fake(test.program)
			d.must("ArtifactInstall")
			expectFile(t, log, fmt.Sprintf(test.want, filepath.Join(d.work, "files")), 0o644)
		})
	}
}

func TestDocker(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not installed, which the update module uses")
	}
	images := []string{"docker.io/library/debian@sha256:" + strings.Repeat("a", 64), "registry:5000/app:1.2"}
	c := makePayload(t, "docker", payload.Options{Images: images, RunArgs: "-p 80:80 --restart=always"})
	d := newDevice(t, "docker", write(t, c))
	log := d.fake("docker")
	d.must("Download", "ArtifactInstall")
	want := "ps -q\n"
	for _, i := range images {
		want += "pull " + i + "\nrun -dt -p 80:80 --restart=always " + i + "\n"
	}
	expectFile(t, log, want, 0o644)
}

const imageID = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// dockerArchive makes what docker save writes, as far as anybody here looks at it.
func dockerArchive(t *testing.T, path, config string, tags ...string) string {
	t.Helper()
	list, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": tags, "Layers": []string{"l/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range []struct{ name, content string }{{"l/layer.tar", strings.Repeat("layer", 50_000)}, {"manifest.json", string(list)}} {
		if err := w.WriteHeader(&tar.Header{Name: m.name, Size: int64(len(m.content)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return put(t, path, b.String(), 0o640)
}

func names(all map[*tar.Header]string) map[string]string {
	out := make(map[string]string)
	for h, content := range all {
		out[h.Name] = content
	}
	return out
}

func TestDockerCompose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	compose := put(t, filepath.Join(dir, "m/docker-compose.yml"), "services: {web: {image: web:1}}\n", 0o644)
	env := put(t, filepath.Join(dir, "m/web.env"), "A=1\n", 0o644)
	image := dockerArchive(t, filepath.Join(dir, "web_1.tar"), "blobs/sha256/"+imageID, "web:1")
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]payload.Options{
		"files":     {ComposeFiles: []string{env, compose}, ImageFiles: []string{image}, Project: "shop"},
		"directory": {Directory: filepath.Join(dir, "m"), ImageFiles: []string{image}, Project: "shop"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := makePayload(t, "docker-compose", o)
			art := write(t, c)
			if again := write(t, c); !bytes.Equal(art, again) {
				t.Error("the same input gave other bytes")
			}
			wantManifests := map[string]string{
				"manifests/": "", "manifests/docker-compose.yml": "services: {web: {image: web:1}}\n", "manifests/web.env": "A=1\n",
			}
			if diff := cmp.Diff(wantManifests, names(members(t, c, "manifests.tar", false))); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(map[string]string{"images/": "", "images/web_1.tar": string(content)}, names(members(t, c, "images.tar.gz", true))); diff != "" {
				t.Error(diff)
			}
			if got, want := string(c.MetaData), `{"version":"1","project_name":"shop"}`; got != want {
				t.Errorf("meta-data %s, want %s", got, want)
			}
			if c.Software.Name != "mender-docker-compose.shop" {
				t.Errorf("software %+v", c.Software)
			}
			// The commands with which the update module unpacks them.
			work := t.TempDir()
			unpack(t, art, work)
			for _, args := range [][]string{
				{"-xzf", filepath.Join(work, "files/images.tar.gz"), "-C", filepath.Join(work, "tmp")},
				{"-xf", filepath.Join(work, "files/manifests.tar"), "-C", filepath.Join(work, "tmp")},
			} {
				if out, err := exec.CommandContext(t.Context(), "tar", args...).CombinedOutput(); err != nil {
					t.Fatalf("tar %v: %v %s", args, err, out)
				}
			}
			expectFile(t, filepath.Join(work, "tmp/images/web_1.tar"), string(content), 0o644)
			expectFile(t, filepath.Join(work, "tmp/manifests/web.env"), "A=1\n", 0o644)
		})
	}
}

func TestApp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	compose := put(t, filepath.Join(dir, "compose.yaml"), "services: {}\n", 0o644)
	for name, config := range map[string]string{"docker": imageID + ".json", "oci": "blobs/sha256/" + imageID} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := dockerArchive(t, filepath.Join(t.TempDir(), "web.tar"), config, "web:1")
			c := makePayload(t, "app", payload.Options{ComposeFiles: []string{compose}, ImageFiles: []string{image}, Project: "shop", Platform: "linux/arm64"})
			write(t, c)
			got := names(members(t, c, "images.tar.gz", true))
			p := "images/" + imageID + "/"
			if len(got[p+"image.img"]) < 1000 {
				t.Error("no image")
			}
			delete(got, p+"image.img")
			want := map[string]string{
				"images/": "", p: "", p + "url-new.txt": "web:1\n", p + "url-current.txt": "web:1\n",
				p + "sums-new.txt": imageID + "\n", p + "sums-current.txt": imageID + "\n",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(members(t, c, "manifests.tar.gz", true)) != 2 {
				t.Error("no manifests")
			}
			meta := `{"application_name":"shop","orchestrator":"docker-compose","platform":"linux/arm64","version":"1.0","images":["` + imageID + `"]}`
			if string(c.MetaData) != meta {
				t.Errorf("meta-data %s", c.MetaData)
			}
		})
	}
}

func TestPlainModule(t *testing.T) {
	t.Parallel()
	file := put(t, filepath.Join(t.TempDir(), "firmware.bin"), "fw", 0o600)
	c := makePayload(t, "mcu-flash", payload.Options{Files: []string{file}, MetaData: json.RawMessage(`{"slot":2}`)})
	if c.Type != "mcu-flash" || len(c.Files) != 1 || c.Files[0].Name != "firmware.bin" || string(c.MetaData) != `{"slot":2}` {
		t.Errorf("contents %+v", c)
	}
	write(t, c)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := func(name string) string { return filepath.Join(dir, name) }
	plain := put(t, p("plain.txt"), "text", 0o644)
	script := put(t, p("script.sh"), "#!/bin/sh\n", 0o644)
	crlf := put(t, p("crlf.sh"), "#!/bin/sh\r\n", 0o644)
	blank := put(t, p("with blank"), "x", 0o644)
	long := put(t, p(strings.Repeat("n", 91)), "x", 0o644)
	fakeDeb := put(t, p("fake.deb"), "not ar", 0o644)
	misnamed := put(t, p("package.ar"), "!<arch>\ndebian-binary", 0o644)
	fakeRPM := put(t, p("fake.rpm"), "", 0o644)
	reserved := put(t, p("dest_dir"), "x", 0o644)
	other := put(t, p("sub/plain.txt"), "x", 0o644)
	compose := put(t, p("compose.yaml"), "services: {}\n", 0o644)
	image := dockerArchive(t, p("image.tar"), imageID+".json", "web:1")
	two := dockerArchive(t, p("two.tar"), imageID+".json", "web:1", "web:2")
	empty := p("empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	type options = payload.Options
	for name, test := range map[string]struct {
		kind string
		o    payload.Options
		want string
	}{
		"no kind":                {"", options{}, "payload type: it is missing"},
		"missing option":         {"single-file", options{Files: []string{plain}}, "destination: it is missing"},
		"foreign option":         {"single-file", options{Files: []string{plain}, Destination: "/x", Images: []string{"a"}}, "images: a payload of type single-file has no use"},
		"plain with destination": {"mcu", options{Files: []string{plain}, Destination: "/x"}, "destination: a payload of type mcu has no use"},
		"no file":                {"mcu", options{Files: []string{p("none")}}, "there is no file"},
		"a directory":            {"mcu", options{Files: []string{dir}}, "not a regular file"},
		"blank in the name":      {"mcu", options{Files: []string{blank}}, "cannot be the name"},
		"long name":              {"mcu", options{Files: []string{long}}, "longer than the 90"},
		"same names":             {"mcu", options{Files: []string{plain, other}}, "two are named"},
		"relative":               {"single-file", options{Files: []string{plain}, Destination: "etc/x"}, "not an absolute path"},
		"dots":                   {"single-file", options{Files: []string{plain}, Destination: "/etc/../x"}, "goes back"},
		"line end":               {"single-file", options{Files: []string{plain}, Destination: "/etc/a\nb/"}, "cannot be printed"},
		"mode":                   {"single-file", options{Files: []string{plain}, Destination: "/x", Mode: "rw"}, "not a mode"},
		"mode 8":                 {"single-file", options{Files: []string{plain}, Destination: "/x", Mode: "0848"}, "not a mode"},
		"two files":              {"single-file", options{Files: []string{plain, script}, Destination: "/x"}, "exactly one"},
		"reserved name":          {"single-file", options{Files: []string{reserved}, Destination: "/x/"}, "keeps a file of its own"},
		"name with slash":        {"single-file", options{Files: []string{plain}, Destination: "/x", FileName: "a/b"}, "cannot be the name"},
		"root destination":       {"single-file", options{Files: []string{plain}, Destination: "/", FileName: ".."}, "cannot be the name"},
		"root":                   {"directory", options{Directory: dir, Destination: "//"}, "root directory"},
		"system":                 {"directory", options{Directory: dir, Destination: "/usr/"}, "which the device needs"},
		"shell":                  {"directory", options{Directory: dir, Destination: "/opt/a b"}, "does not quote"},
		"glob":                   {"directory", options{Directory: dir, Destination: "/opt/*"}, "does not quote"},
		"no directory":           {"directory", options{Directory: p("none"), Destination: "/opt/x"}, "there is no directory"},
		"file as directory":      {"directory", options{Directory: plain, Destination: "/opt/x"}, "not a directory"},
		"empty directory":        {"directory", options{Directory: empty, Destination: "/opt/x"}, "is empty"},
		"no shebang":             {"script", options{Files: []string{plain}}, "neither a script nor a program"},
		"CR":                     {"script", options{Files: []string{crlf}}, "CR LF"},
		"deb":                    {"deb", options{Files: []string{fakeDeb}}, "not a Debian package"},
		"deb name":               {"deb", options{Files: []string{misnamed}}, "end in .deb"},
		"rpm":                    {"rpm", options{Files: []string{fakeRPM}}, "not an RPM package"},
		"image option":           {"docker", options{Images: []string{"--privileged"}}, "not the reference"},
		"image twice":            {"docker", options{Images: []string{"a", "a"}}, "given twice"},
		"quoted arguments":       {"docker", options{Images: []string{"a"}, RunArgs: `-e "A=b c"`}, "divides it at blanks"},
		"both":                   {"docker-compose", options{Directory: dir, ComposeFiles: []string{compose}, ImageFiles: []string{image}, Project: "x"}, "give either"},
		"no compose file":        {"docker-compose", options{ComposeFiles: []string{plain}, ImageFiles: []string{image}, Project: "x"}, "none of them is named"},
		"no image":               {"docker-compose", options{ComposeFiles: []string{compose}, ImageFiles: []string{plain}, Project: "x"}, "not an archive of container images"},
		"project":                {"docker-compose", options{ComposeFiles: []string{compose}, ImageFiles: []string{image}, Project: "a/../b"}, "cannot be the name of a Compose project"},
		"missing image":          {"docker-compose", options{ComposeFiles: []string{compose}, ImageFiles: []string{p("none")}, Project: "x"}, "image_files: there is no file"},
		"two names":              {"app", options{ComposeFiles: []string{compose}, ImageFiles: []string{two}, Project: "x", Platform: "linux/arm64"}, "one image with one name"},
		"no archive":             {"app", options{ComposeFiles: []string{compose}, ImageFiles: []string{plain}, Project: "x", Platform: "linux/arm64"}, "not an archive of a container image"},
		"platform":               {"app", options{ComposeFiles: []string{compose}, ImageFiles: []string{image}, Project: "x", Platform: "arm"}, "linux/arm64"},
		"rootfs with two":        {"rootfs-image", options{Files: []string{plain, script}}, "exactly one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := payload.Make(test.kind, test.o)
			if err == nil {
				c.Close()
				t.Fatalf("accepted: %+v", c)
			}
			var invalid *artifactfmt.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%T %v, want %q", err, err, test.want)
			}
		})
	}
}

// TestKinds holds the table together: every option is one that Make looks at, and has a use.
func TestKinds(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	for _, k := range payload.Kinds() {
		if k.Doc == "" || len(k.Options) == 0 {
			t.Errorf("%s has no documentation or options", k.Name)
		}
		for _, o := range k.Options {
			used[o.Name] = true
			if o.Doc == "" {
				t.Errorf("%s of %s has no documentation", o.Name, k.Name)
			}
			if !slices.Contains(payload.OptionNames(), o.Name) {
				t.Errorf("%s of %s is no field of Options", o.Name, k.Name)
			}
		}
		if found, known := payload.Lookup(k.Name); !known || found.Name != k.Name {
			t.Errorf("Lookup(%q) finds %+v", k.Name, found)
		}
	}
	for _, name := range payload.OptionNames() {
		if !used[name] {
			t.Errorf("no kind takes %s", name)
		}
	}
	if n := reflect.TypeFor[payload.Options]().NumField(); n != len(payload.OptionNames())+1 { // the other one is Epoch
		t.Errorf("Options has %d fields and %d names", n, len(payload.OptionNames()))
	}
}
