package bootenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// CorruptError says that no copy of an environment is usable.
type CorruptError struct {
	Copies []string // where each copy is
	Errs   []error  // what is wrong with each
	advice string
}

func (e *CorruptError) Error() string {
	var b strings.Builder
	b.WriteString("no valid boot environment: ")
	for i, c := range e.Copies {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", c, e.Errs[i])
	}
	return b.String()
}

// Unwrap gives the errors of the copies.
func (e *CorruptError) Unwrap() []error { return e.Errs }

// Hint says what to do about it.
func (e *CorruptError) Hint() string { return e.advice }

// UBoot is a U-Boot environment in its place on the device. It opens the device for each operation and holds nothing
// in between. Its methods may be called concurrently, also by several processes.
type UBoot struct {
	locs []Location
	mu   sync.Mutex
}

// OpenUBoot prepares access to the environment at one location, or at two for a redundant one. It reads nothing yet.
func OpenUBoot(locs []Location) (*UBoot, error) {
	if n := len(locs); n != 1 && n != 2 {
		return nil, &ConfigError{0, fmt.Sprintf("%d locations; a U-Boot environment has one or two", n)}
	}
	for _, l := range locs {
		if err := l.check(); err != nil {
			return nil, &ConfigError{0, fmt.Sprintf("%s: %v", l, err)}
		}
	}
	if len(locs) == 2 {
		a, b := locs[0], locs[1]
		if a.Size != b.Size {
			return nil, &ConfigError{0, fmt.Sprintf("the two copies differ in size: %s; %s", a, b)}
		}
		if a.Path == b.Path && a.Offset < b.end() && b.Offset < a.end() {
			return nil, &ConfigError{0, fmt.Sprintf("the two copies overlap: %s; %s", a, b)}
		}
	}
	return &UBoot{locs: append([]Location(nil), locs...)}, nil
}

// Locations says where the copies are.
func (u *UBoot) Locations() []Location { return append([]Location(nil), u.locs...) }

// copyState is what was found at one location.
type copyState struct {
	block []byte
	vars  map[string]string
	flag  byte
	err   error // the copy is not usable
}

// Load returns the variables of the copy that U-Boot would use. If none is valid the error is a [*CorruptError].
func (u *UBoot) Load() (map[string]string, error) {
	states, err := u.read()
	if err != nil {
		return nil, err
	}
	current, err := u.choose(states)
	if err != nil {
		return nil, err
	}
	return states[current].vars, nil
}

// Update changes variables, an empty value removes one, and returns when the change is on the medium.
//
// With two copies the one not in use is overwritten in one write, with the next flag, so that until its last byte has
// arrived the checksum is wrong and the copy in use stays the one that counts. With a single copy a power cut within that write
// loses the environment; no order of writes can help there.
func (u *UBoot) Update(changes map[string]string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	unlock, err := lockEnvironment(u.locs[0].Path)
	if err != nil {
		return err
	}
	defer unlock()

	states, err := u.read()
	if err != nil {
		return err
	}
	current, err := u.choose(states)
	if err != nil {
		return err
	}
	vars, err := Apply(states[current].vars, changes)
	if err != nil {
		return err
	}
	target := len(u.locs) - 1 - current // the other copy, or the only one
	if maps.Equal(vars, states[current].vars) && states[target].err == nil {
		// Nothing to write, but whoever wrote it may have been stopped before its fsync.
		return u.sync(current)
	}
	block, err := EncodeUBoot(vars, int(u.locs[target].Size), len(u.locs) == 2, states[current].flag+1)
	if err != nil {
		return err
	}
	return u.write(target, block)
}

func (u *UBoot) write(i int, block []byte) error {
	loc := u.locs[i]
	f, err := os.OpenFile(loc.Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the boot environment: %w", err)
	}
	defer f.Close()
	if err := durable.WriteAt(f, block, loc.Offset); err != nil {
		return err
	}
	if err := durable.Sync(f); err != nil {
		return err
	}
	dropCache(f, loc.Offset, loc.Size)
	back := make([]byte, len(block))
	if _, err := f.ReadAt(back, loc.Offset); err != nil {
		return fmt.Errorf("reading the boot environment back from %s: %w", loc, err)
	}
	if !bytes.Equal(back, block) {
		return fmt.Errorf("the boot environment in %s reads back differently from what was written; the medium may be failing", loc)
	}
	return f.Close()
}

func (u *UBoot) sync(i int) error {
	f, err := os.OpenFile(u.locs[i].Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the boot environment: %w", err)
	}
	defer f.Close()
	return durable.Sync(f)
}

// read fetches all copies. A missing or too short device is an error and not a bad copy: the copy that cannot be seen
// may be the newer one, and the mistake is in the configuration.
func (u *UBoot) read() ([]copyState, error) {
	states := make([]copyState, len(u.locs))
	for i, loc := range u.locs {
		f, err := os.Open(loc.Path)
		if err != nil {
			return nil, fmt.Errorf("opening the boot environment: %w", err)
		}
		if err := refuseRawFlash(f); err != nil {
			f.Close()
			return nil, err
		}
		s := &states[i]
		s.block = make([]byte, loc.Size)
		_, err = io.ReadFull(io.NewSectionReader(f, loc.Offset, loc.Size), s.block)
		f.Close()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, &ConfigError{0, fmt.Sprintf("%s: the device ends before that", loc)}
		case err != nil:
			s.err = err // a bad block; the other copy may do
		default:
			s.vars, s.flag, s.err = DecodeUBoot(s.block, len(u.locs) == 2)
		}
	}
	return states, nil
}

func (u *UBoot) choose(states []copyState) (int, error) {
	var valid []int
	for i, s := range states {
		if s.err == nil {
			valid = append(valid, i)
		}
	}
	switch len(valid) {
	case 0:
		return 0, u.corrupt(states)
	case 1:
		return valid[0], nil
	default:
		return newer(states[0].flag, states[1].flag), nil
	}
}

func (u *UBoot) corrupt(states []copyState) error {
	e := &CorruptError{advice: "check that fw_env.config names the device, the offsets and the size that U-Boot was built with (CONFIG_ENV_OFFSET, CONFIG_ENV_SIZE)"}
	redundant := len(u.locs) == 2
	blank := true
	for i, s := range states {
		err := s.err
		if s.block != nil && allSame(s.block) {
			err = errors.New("it was never written")
		} else {
			blank = false
			if _, _, other := DecodeUBoot(s.block, !redundant); other == nil {
				e.advice = "this is a redundant environment, which has two copies: fw_env.config needs a second line"
				if redundant {
					e.advice = "this is an environment of the single form, but fw_env.config names two copies"
				}
			}
		}
		e.Copies = append(e.Copies, u.locs[i].String())
		e.Errs = append(e.Errs, err)
	}
	if blank {
		e.advice = "boot once and run `saveenv` in U-Boot, or write an image that has an environment; if U-Boot did save one, fw_env.config names the wrong place"
	}
	return e
}

// allSame tells erased or zeroed storage.
func allSame(block []byte) bool {
	if len(block) == 0 || (block[0] != 0 && block[0] != 0xff) {
		return false
	}
	for _, c := range block {
		if c != block[0] {
			return false
		}
	}
	return true
}

// ErrRawFlash says that the environment is in MTD or UBI storage, which has to be erased before it is written.
var ErrRawFlash error = rawFlashError{}

type rawFlashError struct{}

func (rawFlashError) Error() string {
	return "the boot environment is in raw flash, which is not supported"
}

func (rawFlashError) Hint() string {
	return "keep the environment in a block device (eMMC, SD card, disk) or in a file"
}

func refuseRawFlash(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the boot environment: %w", err)
	}
	if info.Mode()&os.ModeCharDevice != 0 {
		return fmt.Errorf("%s: %w", f.Name(), ErrRawFlash)
	}
	return nil
}
