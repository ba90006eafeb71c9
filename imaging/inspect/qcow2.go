package inspect

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The format is that of QEMU's docs/interop/qcow2.rst (versions 2 and 3); qemu-img 7.2 decides.
const (
	qcowMagic = 0x514649fb

	qcowMaxL1     = 32 << 20 // bytes, as QEMU has it
	qcowMaxCached = 32 << 20 // bytes of second-level tables that are kept

	qcowDirty        = 1 << 0 // its reference counts are stale; nothing here reads them
	qcowCompression  = 1 << 3
	qcowOffsetMask   = 0x00fffffffffffe00
	qcowZero         = 1
	qcowIsCompressed = 1 << 62
)

type qcow2 struct {
	r           io.ReaderAt
	fileSize    int64
	size        int64
	clusterBits uint
	l1At        int64
	l1Count     int64
	zstd        bool

	mu     sync.Mutex
	tables map[int64][]byte // second-level tables by where they are
	last   int64            // the file offset that unpacked came from
	whole  []byte           // a cluster that was compressed
}

func openQCOW2(r io.ReaderAt, fileSize int64) (*qcow2, error) {
	b := make([]byte, 112)
	if n, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if n < 72 {
		return nil, damaged(FormatQCOW2, "it ends too early")
	}
	be := binary.BigEndian
	version := be.Uint32(b[4:])
	bits, size := be.Uint32(b[20:]), be.Uint64(b[24:])
	l1, l1At := int64(be.Uint32(b[36:])), be.Uint64(b[40:])
	unsupported := func(what string) error {
		return &UnsupportedError{"a qcow2 image " + what, convertAdvice}
	}
	switch {
	case be.Uint32(b) != qcowMagic:
		return nil, damaged(FormatQCOW2, "no signature")
	case version != 2 && version != 3:
		return nil, unsupported(fmt.Sprintf("of version %d", version))
	case be.Uint64(b[8:]) != 0:
		return nil, unsupported("that has only what differs from another one (its backing file)")
	case be.Uint32(b[32:]) != 0:
		return nil, unsupported("that is encrypted")
	case bits < 9 || bits > 21:
		return nil, damaged(FormatQCOW2, "clusters of 2^%d bytes", bits)
	case size > maxDiskSize:
		return nil, damaged(FormatQCOW2, "a disk of %d bytes", size)
	case l1*8 > qcowMaxL1 || l1At > uint64(fileSize) || int64(l1At)+l1*8 > fileSize:
		return nil, damaged(FormatQCOW2, "its table is not in the file")
	}
	q := &qcow2{
		r: r, fileSize: fileSize, size: int64(size), clusterBits: uint(bits), l1At: int64(l1At), l1Count: l1,
		tables: make(map[int64][]byte), last: -1,
	}
	perL1 := q.clusterSize() * (q.clusterSize() / 8)
	if (q.size+perL1-1)/perL1 > l1 {
		return nil, damaged(FormatQCOW2, "a table of %d entries is too short for %d bytes", l1, q.size)
	}
	if version == 3 {
		features := be.Uint64(b[72:])
		if unknown := features &^ (qcowDirty | qcowCompression); unknown != 0 {
			return nil, unsupported(fmt.Sprintf("with features 0x%x", unknown))
		}
		if features&qcowCompression != 0 {
			switch b[104] {
			case 0:
			case 1:
				q.zstd = true
			default:
				return nil, unsupported(fmt.Sprintf("with compression %d", b[104]))
			}
		}
	}
	return q, nil
}

func (q *qcow2) clusterSize() int64 { return 1 << q.clusterBits }

// ReadAt implements [io.ReaderAt].
func (q *qcow2) ReadAt(p []byte, off int64) (int, error) {
	p, end, err := clip(p, off, q.size)
	if err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		skip := at & (q.clusterSize() - 1)
		part := p[n : n+int(min(int64(len(p)-n), q.clusterSize()-skip))]
		if err := q.readCluster(part, at>>q.clusterBits, skip); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), end
}

func (q *qcow2) readCluster(p []byte, cluster, skip int64) error {
	entry, err := q.entry(cluster)
	if err != nil {
		return err
	}
	if entry&qcowIsCompressed != 0 {
		return q.readCompressed(p, entry, skip)
	}
	at := int64(entry & qcowOffsetMask)
	if at == 0 || entry&qcowZero != 0 {
		clear(p)
		return nil
	}
	if at+skip > q.fileSize {
		return damaged(FormatQCOW2, "it points behind its end")
	}
	// The last cluster of a file may be cut short where nothing was written.
	there := p[:min(int64(len(p)), q.fileSize-at-skip)]
	clear(p[len(there):])
	return readFull(q.r, there, at+skip, FormatQCOW2)
}

// entry is what the two levels of tables say of a cluster.
func (q *qcow2) entry(cluster int64) (uint64, error) {
	perTable := q.clusterSize() / 8
	index := cluster / perTable
	if index >= q.l1Count {
		return 0, damaged(FormatQCOW2, "cluster %d is not in its table", cluster)
	}
	b := make([]byte, 8)
	if err := readFull(q.r, b, q.l1At+index*8, FormatQCOW2); err != nil {
		return 0, err
	}
	at := int64(binary.BigEndian.Uint64(b) & qcowOffsetMask)
	if at == 0 {
		return 0, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	table, found := q.tables[at]
	if !found {
		if at > q.fileSize-q.clusterSize() {
			return 0, damaged(FormatQCOW2, "it points behind its end")
		}
		table = make([]byte, q.clusterSize())
		if err := readFull(q.r, table, at, FormatQCOW2); err != nil {
			return 0, err
		}
		if int64(len(q.tables)+1)*q.clusterSize() > qcowMaxCached {
			clear(q.tables)
		}
		q.tables[at] = table
	}
	return binary.BigEndian.Uint64(table[cluster%perTable*8:]), nil
}

// readCompressed unpacks a cluster; the last one is kept, since small reads follow one another.
func (q *qcow2) readCompressed(p []byte, entry uint64, skip int64) error {
	split := 62 - (q.clusterBits - 8)
	at := int64(entry & (1<<split - 1))
	sectors := int64(entry&(1<<62-1)>>split) + 1
	length := min(sectors*512-at&511, q.fileSize-at)
	if length <= 0 {
		return damaged(FormatQCOW2, "it points behind its end")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last != at {
		packed := make([]byte, length)
		if err := readFull(q.r, packed, at, FormatQCOW2); err != nil {
			return err
		}
		whole, err := q.unpack(packed)
		if err != nil {
			return damaged(FormatQCOW2, "a compressed cluster cannot be unpacked")
		}
		q.whole, q.last = whole, at
	}
	copy(p, q.whole[skip:])
	return nil
}

func (q *qcow2) unpack(packed []byte) ([]byte, error) {
	whole := make([]byte, q.clusterSize())
	if !q.zstd {
		_, err := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), whole)
		return whole, err
	}
	d, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxMemory(8<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	_, err = io.ReadFull(d, whole)
	return whole, err
}
