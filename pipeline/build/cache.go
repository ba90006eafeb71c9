package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/pipeline"
)

// cacheVariable may name a cache that several pipelines share.
const cacheVariable = "TWINKEEL_CACHE_DIR"

// DefaultCacheSize is what builds leave of a cache, in bytes on the disk.
const DefaultCacheSize int64 = 20 << 30

// CacheDir is where a pipeline's cache is: TWINKEEL_CACHE_DIR, or where the pipeline says.
func CacheDir(plan *pipeline.Plan) string {
	dir := os.Getenv(cacheVariable)
	if dir == "" {
		dir = plan.CacheDir
	}
	if dir == "" {
		dir = filepath.Join(plan.Dir, ".twinkeel", "cache")
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

// Cache keeps what was built, by the key of the action that built it. See DESIGN.md for what is on the disk.
//
// Outputs are copies of what the cache holds (or share its blocks until one of them is written to), never hard links: disk
// images are mounted, edited and flashed from where they are, and an edited output must not be what the next build takes.
type Cache struct{ dir string }

// OpenCache names a cache; nothing need be there.
func OpenCache(dir string) *Cache { return &Cache{dir} }

// Dir is where the cache is.
func (c *Cache) Dir() string { return c.dir }

// Entry is what the cache knows of one action's output.
type Entry struct {
	FormatVersion int      `json:"format_version"`
	Key           string   `json:"key"`
	Address       string   `json:"address"` // of the action that made it
	Kind          string   `json:"kind"`
	ArtifactName  string   `json:"artifact_name,omitempty"`
	DeviceTypes   []string `json:"device_types,omitempty"`
	SignerKeyID   string   `json:"signer_key_id,omitempty"`
	// SignerPublicKey is the key as PEM text; entries of older releases have none.
	SignerPublicKey string       `json:"signer_public_key,omitempty"`
	Areas           []Area       `json:"areas,omitempty"`
	Files           []CachedFile `json:"files"` // the output, then what is written beside it
	// PayloadKey is by what the entry is found when another signature is wanted; see Step.
	PayloadKey string    `json:"payload_key,omitempty"`
	Used       time.Time `json:"-"` // when it was last stored or taken
}

// CachedFile is one file of an entry.
type CachedFile struct {
	Name   string `json:"name"`   // without directory
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // of a large raw image in its sparse form; see digests
	// Program: it can be executed.
	Program bool `json:"program,omitempty"`
	// Identity is what the content's inode looked like when it was written. While it does the digest need not be computed.
	Identity string `json:"identity"`
}

// Size is the number of bytes in all files of the entry.
func (e *Entry) Size() int64 {
	var n int64
	for _, f := range e.Files {
		n += f.Size
	}
	return n
}

const (
	entryVersion = 1
	maxEntry     = 1 << 20 // bytes; more is no entry
	maxFiles     = 64      // an artifact has an output and two documents, a source up to 32 outputs
)

// errMiss says that the cache has nothing under a key.
var errMiss = errors.New("not in the cache")

// DamagedEntryError says that an entry cannot be used. It counts as a miss.
type DamagedEntryError struct {
	Key     string
	Address string // empty when that cannot be read
	Reason  string
}

func (e *DamagedEntryError) Error() string {
	what := short(e.Key)
	if e.Address != "" {
		what += " (" + e.Address + ")"
	}
	return fmt.Sprintf("cache entry %s is damaged: %s", what, e.Reason)
}

func (c *Cache) entryPath(key string) string   { return filepath.Join(c.dir, "ac", key[:2], key) }
func (c *Cache) payloadPath(key string) string { return filepath.Join(c.dir, "payload", key[:2], key) }

func (c *Cache) contentPath(digest string) string {
	sum := strings.TrimPrefix(digest, sparseForm)
	return filepath.Join(c.dir, "cas", sum[:2], sum)
}

// isDigest tells whether a text from the disk is a SHA-256, and so harmless in a path.
func isDigest(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == sha256.Size && strings.ToLower(text) == text
}

// read returns the entry of a key, not yet knowing whether its files are there.
func (c *Cache) read(key string) (*Entry, error) {
	f, err := os.OpenFile(c.entryPath(key), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMiss
	}
	if err != nil {
		return nil, &DamagedEntryError{Key: key, Reason: "it cannot be read: " + plainPathError(err)}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, &DamagedEntryError{Key: key, Reason: "it is not a file"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	if err != nil || len(text) > maxEntry {
		return nil, &DamagedEntryError{Key: key, Reason: "it cannot be read as a whole"}
	}
	e, err := decodeEntry(key, text)
	if err != nil {
		return nil, err
	}
	e.Used = info.ModTime()
	return e, nil
}

// decodeEntry checks an entry: a line with the SHA-256 of the rest, and that rest.
func decodeEntry(key string, text []byte) (*Entry, error) {
	damaged := func(reason string) error { return &DamagedEntryError{Key: key, Reason: reason} }
	sum, body, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return nil, damaged("it ends too early")
	}
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != string(sum) {
		return nil, damaged("its checksum is wrong")
	}
	var e Entry
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, damaged("it is not JSON")
	}
	if e.FormatVersion != entryVersion {
		return nil, errMiss // of another version of the tool
	}
	if e.Key != key || len(e.Files) == 0 || len(e.Files) > maxFiles {
		return nil, damaged("it is of something else")
	}
	for _, f := range e.Files {
		if !isDigest(strings.TrimPrefix(f.SHA256, sparseForm)) || f.Size < 0 || f.Name == "" || f.Name != filepath.Base(f.Name) || strings.HasPrefix(f.Name, ".") {
			return nil, damaged("it names no file")
		}
	}
	return &e, nil
}

func encodeEntry(e *Entry) ([]byte, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(hex.EncodeToString(sum[:])+"\n"), body...), nil
}

// hasher is how digests are found, in the form of another one: through the memo, or by reading everything.
type hasher func(ctx context.Context, path, other string) (string, error)

// find returns the entry of a key when it and its files are whole; errMiss or a *DamagedEntryError when they aren't. Sizes are
// always checked, digests only of files that were touched since they were written.
func (c *Cache) find(ctx context.Context, key string, hash hasher) (*Entry, error) {
	e, err := c.read(key)
	if err != nil {
		return nil, err
	}
	for i := range e.Files {
		f, err := c.open(ctx, e, i, hash, false)
		if err != nil {
			return nil, err
		}
		f.Close()
	}
	return e, nil
}

// open opens one file of an entry, checked. With always its digest is computed whatever its inode looks like.
func (c *Cache) open(ctx context.Context, e *Entry, i int, hash hasher, always bool) (*os.File, error) {
	want := e.Files[i]
	path := c.contentPath(want.SHA256)
	damaged := func(format string, args ...any) error {
		return &DamagedEntryError{Key: e.Key, Address: e.Address, Reason: fmt.Sprintf(format, args...)}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged("the content of %s is gone", want.Name)
	}
	if err != nil {
		return nil, damaged("the content of %s cannot be read: %s", want.Name, plainPathError(err))
	}
	fail := func(err error) (*os.File, error) { f.Close(); return nil, err }
	info, err := f.Stat()
	switch {
	case err != nil:
		return fail(err)
	case !info.Mode().IsRegular():
		return fail(damaged("the content of %s is not a file", want.Name))
	case info.Size() != want.Size:
		return fail(damaged("the content of %s has %d bytes instead of %d", want.Name, info.Size(), want.Size))
	case !always && identity(path, info) == want.Identity:
		return f, nil
	}
	sum, err := hash(ctx, path, want.SHA256)
	switch {
	case ctx.Err() != nil:
		return fail(ctx.Err())
	case err != nil:
		return fail(damaged("the content of %s cannot be read: %s", want.Name, plainPathError(err)))
	case sum != want.SHA256:
		return fail(damaged("the content of %s has changed", want.Name))
	}
	return f, nil
}

// take copies an entry's files to where the output and its companions belong; the output last, as a build does.
func (c *Cache) take(ctx context.Context, e *Entry, output string, hash hasher) error {
	unlock, err := c.share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := durable.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	for i := len(e.Files) - 1; i >= 0; i-- {
		path := output
		if i > 0 {
			path = filepath.Join(filepath.Dir(output), e.Files[i].Name)
		}
		if err := c.takeFile(ctx, e, i, path, hash); err != nil {
			return err
		}
	}
	now := time.Now()
	_ = os.Chtimes(c.entryPath(e.Key), now, now) // for prune; a cache that can't be written to can still be read
	return nil
}

// takeAll copies an entry's files to where a source's outputs belong, which are as many and in the same order.
func (c *Cache) takeAll(ctx context.Context, e *Entry, outputs []string, hash hasher) error {
	if len(e.Files) != len(outputs) {
		return &DamagedEntryError{Key: e.Key, Address: e.Address, Reason: "it has another number of files"}
	}
	unlock, err := c.share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for i, path := range outputs {
		if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := c.takeFile(ctx, e, i, path, hash); err != nil {
			return err
		}
	}
	now := time.Now()
	_ = os.Chtimes(c.entryPath(e.Key), now, now)
	return nil
}

func (c *Cache) takeFile(ctx context.Context, e *Entry, i int, path string, hash hasher) error {
	in, err := c.open(ctx, e, i, hash, false)
	if err != nil {
		return err
	}
	defer in.Close()
	mode := fs.FileMode(0o644)
	if e.Files[i].Program {
		mode = 0o755
	}
	return copyDurably(ctx, path, in, e.Files[i].Size, mode)
}

func copyDurably(ctx context.Context, path string, in *os.File, size int64, perm fs.FileMode) error {
	out, err := durable.Create(path, perm)
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := copyFile(ctx, out.File, in, size); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = syscall.ENOSPC // without the name of the temporary file, which is gone
		}
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return out.Commit()
}

// made is a file that goes into the cache.
type made struct {
	path     string
	sha256   string
	identity string // of the inode whose content has that digest
}

// errNoRoom says that an output is not kept, because there is little room.
var errNoRoom = errors.New("no room")

// store keeps files under a key: their contents first, then the entry that names them. A crash in between leaves contents that
// prune removes.
func (c *Cache) store(ctx context.Context, e *Entry, files []made) error {
	if err := durable.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	unlock, err := c.share(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	e.FormatVersion, e.Files = entryVersion, nil
	for _, m := range files {
		f, err := c.keep(ctx, m)
		if err != nil {
			return err
		}
		e.Files = append(e.Files, *f)
	}
	text, err := encodeEntry(e)
	if err != nil {
		return err
	}
	if err := c.writeNamed(c.entryPath(e.Key), text); err != nil || e.PayloadKey == "" {
		return err
	}
	return c.writeNamed(c.payloadPath(e.PayloadKey), []byte(e.Key))
}

func (c *Cache) writeNamed(path string, text []byte) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := makeWay(path); err != nil {
		return err
	}
	return durable.WriteFile(path, text, 0o644)
}

// makeWay removes a pipe or the like from where a file of the cache goes: it is damage as any other.
func makeWay(path string) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return durable.Remove(path)
	}
	return nil
}

// findPayload returns an entry with the wanted payload and whatever signature; errMiss when there is none.
func (c *Cache) findPayload(ctx context.Context, payloadKey string, hash hasher) (*Entry, error) {
	key, ok := readKey(c.payloadPath(payloadKey))
	if !ok {
		return nil, errMiss
	}
	e, err := c.find(ctx, key, hash)
	if err == nil && e.PayloadKey != payloadKey {
		return nil, errMiss
	}
	return e, err
}

// readKey reads a file that holds the key of an entry.
func readKey(path string) (key string, ok bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*sha256.Size+1))
	return string(text), err == nil && isDigest(string(text))
}

// keep copies one file into the content store. A file that changes meanwhile is not what its digest says, and is refused.
func (c *Cache) keep(ctx context.Context, m made) (*CachedFile, error) {
	in, err := os.Open(m.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	if !c.hasRoom(info) {
		return nil, errNoRoom
	}
	path := c.contentPath(m.sha256)
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := durable.Sweep(dir); err != nil { // what a killed build left
		return nil, err
	}
	if err := makeWay(path); err != nil {
		return nil, err
	}
	out, err := durable.Create(path, 0o444)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	if err := copyFile(ctx, out.File, in, info.Size()); err != nil {
		return nil, err
	}
	if after, err := in.Stat(); err != nil || identity(m.path, after) != m.identity {
		return nil, fmt.Errorf("%s changed while it was copied", m.path)
	}
	if err := out.Commit(); err != nil {
		return nil, err
	}
	kept, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	return &CachedFile{
		Name: filepath.Base(m.path), Size: info.Size(), SHA256: m.sha256, Identity: identity(path, kept), Program: info.Mode()&0o100 != 0,
	}, nil
}

// hasRoom is false when the copy would take more than half of what is free: outputs are worth more than a cache of them.
func (c *Cache) hasRoom(info fs.FileInfo) bool {
	var free unix.Statfs_t
	if unix.Statfs(c.dir, &free) != nil {
		return true
	}
	return onDisk(info) <= int64(free.Bavail)*int64(free.Bsize)/2 //nolint:unconvert // other types on other architectures
}

// onDisk is what a file takes on the disk, which for a sparse one is less than its size.
func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512 //nolint:unconvert // other types on other architectures
	}
	return info.Size()
}

// share keeps prune away while entries are read or written; alone keeps everybody away.
func (c *Cache) share(ctx context.Context) (unlock func(), err error) {
	return c.lock(ctx, syscall.LOCK_SH)
}

func (c *Cache) alone(ctx context.Context) (unlock func(), err error) {
	return c.lock(ctx, syscall.LOCK_EX)
}

func (c *Cache) lock(ctx context.Context, how int) (unlock func(), err error) {
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, dir, how); err != nil {
		dir.Close()
		return nil, fmt.Errorf("locking %s: %w", c.dir, err)
	}
	return func() { dir.Close() }, nil
}

// lockKey makes the processes that build one thing wait for each other: the second finds it in the cache.
func (c *Cache) lockKey(ctx context.Context, key string) (unlock func(), err error) {
	dir := filepath.Join(c.dir, "locks")
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(dir, key))
}

// plainPathError is the cause alone: the path below the cache means nothing to people.
func plainPathError(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
