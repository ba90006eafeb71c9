package bootenv

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// GRUB is the environment of Mender's GRUB integration: two directories mender_grubenv1 and mender_grubenv2, each with
// an env block, a lock block that holds editing=1 while env is being written, and lock.sha256sum, the hash of the lock
// block at rest, which only the Linux tools read. Two directories, so that a damaged directory sector hits one copy.
type GRUB struct {
	dir string
	mu  sync.Mutex
}

const (
	grubEnv     = "env"
	grubLock    = "lock"
	grubLockSum = "lock.sha256sum"
	varEditing  = "editing"
)

func grubCopy(n int) string { return fmt.Sprintf("mender_grubenv%d", n) }

// GRUBFiles returns the files of a fresh environment, by path below the directory that [OpenGRUB] takes.
func GRUBFiles(vars map[string]string) (map[string][]byte, error) {
	env, err := EncodeGRUB(vars)
	if err != nil {
		return nil, err
	}
	lock, err := EncodeGRUB(map[string]string{varEditing: "0"})
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for n := 1; n <= 2; n++ {
		files[grubCopy(n)+"/"+grubEnv] = env
		files[grubCopy(n)+"/"+grubLock] = lock
		files[grubCopy(n)+"/"+grubLockSum] = lockSum(lock)
	}
	return files, nil
}

func lockSum(lock []byte) []byte {
	sum := sha256.Sum256(lock)
	return []byte(hex.EncodeToString(sum[:]) + "  lock\n")
}

// OpenGRUB prepares access to the environment below dir, usually BOOT/grub-mender-grubenv. At least one of its two
// directories must exist.
func OpenGRUB(dir string) (*GRUB, error) {
	for n := 1; n <= 2; n++ {
		if info, err := os.Stat(filepath.Join(dir, grubCopy(n))); err == nil && info.IsDir() {
			return &GRUB{dir: dir}, nil
		}
	}
	return nil, fmt.Errorf("opening the boot environment: %s has no %s: %w", dir, grubCopy(1), fs.ErrNotExist)
}

func (g *GRUB) path(n int, file string) string { return filepath.Join(g.dir, grubCopy(n), file) }

// grubState is what was found in one of the two directories.
type grubState struct {
	preamble, lockPreamble string
	vars                   map[string]string
	err                    error // env is not usable, or it was being written when the writer stopped
}

// Load returns the variables that GRUB would use: of copy 1, unless its lock says that it was being written.
func (g *GRUB) Load() (map[string]string, error) {
	states := g.read()
	current, err := g.choose(states)
	if err != nil {
		return nil, err
	}
	return states[current].vars, nil
}

// Update changes variables, an empty value removes one, and returns when the change is on the medium. Copy 2 is written
// first, so that a stop in it leaves copy 1 with the old values, and a stop in copy 1 finds the new ones in copy 2.
func (g *GRUB) Update(changes map[string]string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	unlock, err := g.lock()
	if err != nil {
		return err
	}
	defer unlock()

	states := g.read()
	current, err := g.choose(states)
	if err != nil {
		return err
	}
	old := states[current].vars
	vars, err := Apply(old, changes)
	if err != nil {
		return err
	}
	if states[current].preamble == "" {
		states[current].preamble = grubSignature
	}
	before, err := encodeGRUB(states[current].preamble, old)
	if err != nil {
		return err
	}
	after, err := encodeGRUB(states[current].preamble, vars)
	if err != nil {
		return err
	}
	if states[0].err != nil {
		// Copy 2 is the only good one. Restore copy 1 before copy 2 is touched.
		if err := g.writeCopy(1, states[0].lockPreamble, before); err != nil {
			return err
		}
	}
	if maps.Equal(vars, old) && states[1].err == nil && maps.Equal(states[1].vars, old) {
		// Nothing to write, but whoever wrote it may have been stopped before its fsync.
		return g.syncCopies()
	}
	for n := 2; n >= 1; n-- {
		if err := g.writeCopy(n, states[n-1].lockPreamble, after); err != nil {
			return err
		}
	}
	return nil
}

// writeCopy replaces one copy. A stop after any step leaves its lock at editing=1 unless env is whole.
func (g *GRUB) writeCopy(n int, lockPreamble string, env []byte) error {
	if err := durable.MkdirAll(filepath.Join(g.dir, grubCopy(n)), 0o755); err != nil {
		return err
	}
	if lockPreamble == "" {
		lockPreamble = grubSignature
	}
	busy, err := encodeGRUB(lockPreamble, map[string]string{varEditing: "1"})
	if err != nil {
		return err
	}
	rest, err := encodeGRUB(lockPreamble, map[string]string{varEditing: "0"})
	if err != nil {
		return err
	}
	if err := writeBlock(g.path(n, grubLock), busy); err != nil {
		return err
	}
	if err := writeBlock(g.path(n, grubEnv), env); err != nil {
		return err
	}
	back, err := os.ReadFile(g.path(n, grubEnv))
	if err != nil {
		return fmt.Errorf("reading the boot environment back: %w", err)
	}
	if !bytes.Equal(back, env) {
		return fmt.Errorf("the boot environment %s reads back differently from what was written; the medium may be failing", g.path(n, grubEnv))
	}
	if err := writeBlock(g.path(n, grubLock), rest); err != nil {
		return err
	}
	sum, err := os.ReadFile(g.path(n, grubLockSum))
	if err == nil && bytes.Equal(sum, lockSum(rest)) {
		return nil
	}
	return durable.WriteFile(g.path(n, grubLockSum), lockSum(rest), 0o644)
}

// writeBlock overwrites a block in place, without O_TRUNC: its clusters then never move and GRUB, which remembers
// sectors and not names, can go on writing it. A file of another size is replaced whole.
func writeBlock(path string, block []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.WriteFile(path, block, 0o644)
	}
	if err != nil {
		return fmt.Errorf("opening the boot environment: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the boot environment: %w", err)
	}
	if info.Size() != int64(len(block)) {
		return durable.WriteFile(path, block, 0o644)
	}
	if err := durable.WriteAt(f, block, 0); err != nil {
		return err
	}
	if err := durable.Sync(f); err != nil {
		return err
	}
	dropCache(f, 0, int64(len(block)))
	return f.Close()
}

func (g *GRUB) syncCopies() error {
	for n := 2; n >= 1; n-- {
		for _, file := range []string{grubEnv, grubLock} {
			f, err := os.OpenFile(g.path(n, file), os.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("opening the boot environment: %w", err)
			}
			err = durable.Sync(f)
			f.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *GRUB) read() [2]grubState {
	var states [2]grubState
	for i := range states {
		s := &states[i]
		lock, err := readBlock(g.path(i+1, grubLock))
		if err == nil {
			var vars map[string]string
			s.lockPreamble, vars, err = decodeGRUB(lock)
			if err == nil && vars[varEditing] != "0" {
				err = errors.New("its lock says that it was being written")
			}
		}
		if err != nil {
			s.err = fmt.Errorf("lock: %w", err)
			continue
		}
		env, err := readBlock(g.path(i+1, grubEnv))
		if err != nil {
			s.err = err
			continue
		}
		s.preamble, s.vars, s.err = decodeGRUB(env)
	}
	return states
}

func readBlock(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, GRUBSize+1)
	n, err := f.ReadAt(block, 0)
	if n == GRUBSize {
		return block[:n], nil
	}
	if n > GRUBSize || err == nil {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrGRUBBlock, GRUBSize)
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrGRUBBlock, n, GRUBSize)
}

func (g *GRUB) choose(states [2]grubState) (int, error) {
	for i, s := range states {
		if s.err == nil {
			return i, nil
		}
	}
	return 0, &CorruptError{
		Copies: []string{g.path(1, grubEnv), g.path(2, grubEnv)},
		Errs:   []error{states[0].err, states[1].err},
		advice: "GRUB cannot choose a slot from this; restore both directories from the image the device was made with",
	}
}

// lock keeps other writers that use this package away. The shell tools of grub-mender-grubenv lock a file in /var/lock.
func (g *GRUB) lock() (unlock func(), err error) {
	d, err := os.Open(g.dir)
	if err != nil {
		return nil, fmt.Errorf("opening the boot environment: %w", err)
	}
	return flock(d)
}
