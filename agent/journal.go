package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/twinkeel/twinkeel/internal/durable"
)

// journalName is the agent's only memory. Everything that must survive a power cut is in it: the state, the update at
// hand and what is installed.
const journalName = "twinkeel-agent.journal"

// The file has two copies of a fixed size. A record is written over the older one, in place: a full disk cannot keep a
// record from being written, and a torn write leaves the other copy. The file's blocks are allocated when it is made.
//
//	0   8  magic "TWKJRNL1"
//	8   8  sequence number, little-endian; the higher valid one counts
//	16  4  length of the record
//	20  4  CRC-32C of bytes 0 to 19 and of the record
//	24     the record, JSON
const (
	journalMagic    = "TWKJRNL1"
	journalHeader   = 24
	journalCopySize = 64 << 10
	journalCopies   = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// JournalDamagedError: neither copy of the journal can be read. A crash cannot do that; a failing medium can.
type JournalDamagedError struct {
	Path   string
	Reason string
}

func (e *JournalDamagedError) Error() string {
	return fmt.Sprintf("the journal %s is damaged: %s", e.Path, e.Reason)
}

// ErrRecordTooLarge: the update's provides do not fit into the journal.
var ErrRecordTooLarge = errors.New("the update's provides are too large for the journal")

// Record is what the journal holds.
type Record struct {
	Version   int       `json:"version"`
	State     State     `json:"state"`
	Installed Installed `json:"installed"`
	Update    *Update   `json:"update,omitempty"` // set in every state but idle
}

// recordVersion changes when an older agent would misread a newer record. It matters: after a failed update the old
// system's agent reads what the new system's agent wrote. Fields may be added without a change.
const recordVersion = 1

// Installed says what the running system is.
type Installed struct {
	Name     string            `json:"artifact_name"`
	Group    string            `json:"artifact_group,omitempty"`
	Provides map[string]string `json:"provides,omitempty"`
}

// Update is the update at hand.
type Update struct {
	ID     string `json:"id,omitempty"`     // of the deployment; empty for a standalone install
	Source string `json:"source,omitempty"` // standalone: where it came from, for people
	Name   string `json:"artifact_name"`

	Target SlotName  `json:"target,omitempty"` // the slot it goes to
	Size   int64     `json:"size,omitempty"`   // of the payload, once it is verified in the slot
	SHA256 string    `json:"sha256,omitempty"`
	After  Installed `json:"after,omitzero"` // what will be installed once it is committed

	Switches int `json:"switches,omitempty"` // how often the boot loader was told to try it
	Reboots  int `json:"reboots,omitempty"`  // how often a reboot was asked for in the present state

	Outcome Outcome `json:"outcome,omitempty"`
	Reason  string  `json:"reason,omitempty"` // of a failure, for people
}

// Standalone says that the update came from the command line: no server is told of it, and a person commits it.
func (u *Update) Standalone() bool { return u.ID == "" }

// Outcome of an update.
type Outcome string

// The outcomes.
const (
	OutcomeSuccess          Outcome = "success"
	OutcomeFailure          Outcome = "failure"
	OutcomeAborted          Outcome = "aborted" // by the server, which needs no report
	OutcomeAlreadyInstalled Outcome = "already-installed"
)

type journal struct {
	f      *os.File
	record Record
	seq    uint64
	older  int // the copy to write next
}

// openJournal opens the journal, or makes an empty one.
func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createJournal(path); err != nil {
			return nil, fmt.Errorf("creating the journal: %w", err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal %s: %s", path, reason(err))
	}
	data := make([]byte, journalCopies*journalCopySize)
	if _, err := f.ReadAt(data, 0); err != nil {
		closeQuietly(f)
		return nil, &JournalDamagedError{Path: path, Reason: "shorter than it was made"}
	}
	j := &journal{f: f}
	if j.record, j.seq, j.older, err = chooseRecord(data); err != nil {
		closeQuietly(f)
		return nil, &JournalDamagedError{Path: path, Reason: err.Error()}
	}
	return j, nil
}

// readJournal reads the newest record. A writer at work at the same time is at the older copy.
func readJournal(path string) (Record, error) {
	f, err := os.Open(path)
	if err != nil {
		return Record{}, fmt.Errorf("opening the journal: %w", err)
	}
	defer closeQuietly(f)
	data := make([]byte, journalCopies*journalCopySize)
	if _, err := io.ReadFull(f, data); err != nil {
		return Record{}, &JournalDamagedError{Path: path, Reason: "shorter than it was made"}
	}
	r, _, _, err := chooseRecord(data)
	if err != nil {
		return Record{}, &JournalDamagedError{Path: path, Reason: err.Error()}
	}
	return r, nil
}

// createJournal makes the file with a first record in it, so that a file without any valid record is always damage. Its
// bytes are written, not skipped over: a hole would need space later, when the disk may be full.
func createJournal(path string) error {
	first, err := encodeRecord(Record{Version: recordVersion, State: Idle}, 1)
	if err != nil {
		return err
	}
	data := make([]byte, journalCopies*journalCopySize)
	copy(data, first)
	return durable.WriteFile(path, data, 0o600)
}

// chooseRecord finds the newest valid record and the copy to overwrite next.
func chooseRecord(data []byte) (best Record, seq uint64, older int, err error) {
	found := false
	reasons := [journalCopies]error{}
	for i := range journalCopies {
		r, s, err := decodeRecord(data[i*journalCopySize : (i+1)*journalCopySize])
		if err != nil {
			reasons[i] = err
			continue
		}
		if !found || s > seq {
			best, seq, older, found = r, s, 1-i, true
		}
	}
	if !found {
		return Record{}, 0, 0, fmt.Errorf("copy 1: %w; copy 2: %w", reasons[0], reasons[1])
	}
	return best, seq, older, nil
}

func encodeRecord(r Record, seq uint64) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(body) > journalCopySize-journalHeader {
		return nil, ErrRecordTooLarge
	}
	out := make([]byte, journalHeader, journalHeader+len(body))
	copy(out, journalMagic)
	binary.LittleEndian.PutUint64(out[8:], seq)
	binary.LittleEndian.PutUint32(out[16:], uint32(len(body)))
	sum := crc32.Update(crc32.Checksum(out[:20], castagnoli), castagnoli, body)
	binary.LittleEndian.PutUint32(out[20:], sum)
	return append(out, body...), nil
}

func decodeRecord(data []byte) (Record, uint64, error) {
	if len(data) < journalHeader || string(data[:8]) != journalMagic {
		return Record{}, 0, errors.New("no record")
	}
	length := binary.LittleEndian.Uint32(data[16:])
	if int64(length) > int64(len(data)-journalHeader) {
		return Record{}, 0, errors.New("impossible length")
	}
	body := data[journalHeader : journalHeader+int(length)]
	sum := crc32.Update(crc32.Checksum(data[:20], castagnoli), castagnoli, body)
	if sum != binary.LittleEndian.Uint32(data[20:]) {
		return Record{}, 0, errors.New("wrong checksum")
	}
	var r Record
	if err := json.Unmarshal(body, &r); err != nil {
		return Record{}, 0, errors.New("not the JSON of a record")
	}
	if err := r.check(); err != nil {
		return Record{}, 0, err
	}
	return r, binary.LittleEndian.Uint64(data[8:]), nil
}

// check refuses a record that the state machine could not act on.
func (r *Record) check() error {
	if r.Version < 1 || r.Version > recordVersion {
		return fmt.Errorf("version %d is not known to this agent", r.Version)
	}
	if _, known := transitions[r.State]; !known {
		return fmt.Errorf("unknown state %q", r.State)
	}
	if (r.State == Idle) != (r.Update == nil) {
		return fmt.Errorf("state %s does not fit the record", r.State)
	}
	if r.Update == nil {
		return nil
	}
	target := r.Update.Target
	if target != SlotA && target != SlotB && (target != "" || r.State.needsTarget()) {
		return fmt.Errorf("unknown slot %q", target)
	}
	return nil
}

// maxReason bounds a reason in bytes. It may quote what a server or an artifact says.
const maxReason = 1000

// fits says whether every record of the update that is still to come fits into the journal.
func (u Update) fits(installed Installed) error {
	u.Outcome, u.Switches, u.Reboots = OutcomeAlreadyInstalled, maxSwitches, maxReboots
	u.Reason = strings.Repeat("<", maxReason+len("…")) // which takes the most room in JSON
	for _, one := range []Installed{installed, u.After} {
		one.Name += "_INCONSISTENT"
		if _, err := encodeRecord(Record{Version: recordVersion, State: RollingBack, Installed: one, Update: &u}, 0); err != nil {
			return err
		}
	}
	return nil
}

// write makes r the journal's record. After an error the record may be either: every effect checks what was done
// before it does anything, so both are good.
func (j *journal) write(r Record) error {
	r.Version = recordVersion
	if r.Update != nil {
		u := *r.Update
		u.Reason = printable(u.Reason, maxReason)
		r.Update = &u
	}
	data, err := encodeRecord(r, j.seq+1)
	if err != nil {
		return err
	}
	if err := durable.WriteAt(j.f, data, int64(j.older)*journalCopySize); err != nil {
		return err
	}
	if err := durable.Sync(j.f); err != nil {
		return err
	}
	j.record, j.seq, j.older = r, j.seq+1, 1-j.older
	return nil
}

func (j *journal) Close() { closeQuietly(j.f) }
