package imaging

import (
	"bytes"
	"encoding/binary"
	"os"
)

// qcow2 version 3 is described in QEMU's docs/interop/qcow2.rst; qemu-img check decides. All numbers are big-endian.
const (
	qcowCluster    = 64 << 10
	qcowL2Entries  = qcowCluster / 8
	qcowRefEntries = qcowCluster / 2 // 16 bits for each cluster
	qcowCopied     = 1 << 63         // used once, so it may be written in place
	qcowHeader     = 104
	maxQcow2       = 64 << 40 // keeps the L1 table at 1 MiB
)

// qcow2 writes a virtual disk: a cluster is there if it holds anything. Clusters are placed in the order they come:
//
//	header | L1 table | clusters, each 512 MiB of disk followed by their L2 table | refcount blocks | refcount table
//
// Only one L2 table is in memory at a time.
type qcow2 struct {
	out     *os.File
	size    int64
	l1      []uint64
	l2      []uint64
	l2Index int64
	used    bool  // the current L2 table has an entry
	next    int64 // cluster of the file
}

func newQcow2(out *os.File, size int64) *qcow2 {
	tables := (size-1)/(qcowCluster*qcowL2Entries) + 1
	return &qcow2{
		out: out, size: size, l1: make([]uint64, tables), l2: make([]uint64, qcowL2Entries),
		next: 1 + (tables*8-1)/qcowCluster + 1,
	}
}

func (q *qcow2) put(w *window) error {
	if w.data == nil {
		return nil
	}
	const perCluster = qcowCluster / blockSize
	for off := w.off; off < w.off+w.size; off += qcowCluster {
		if w.nonzero>>((off-w.off)/blockSize)&(1<<perCluster-1) == 0 {
			continue
		}
		cluster := off / qcowCluster
		if err := q.table(cluster / qcowL2Entries); err != nil {
			return err
		}
		data := w.slice(off, min(off+qcowCluster, w.off+w.size))
		if _, err := q.out.WriteAt(data, q.next*qcowCluster); err != nil {
			return err
		}
		q.l2[cluster%qcowL2Entries], q.used = uint64(q.next*qcowCluster)|qcowCopied, true
		q.next++
	}
	return nil
}

// table makes the L2 table of that index the current one.
func (q *qcow2) table(index int64) error {
	if index == q.l2Index {
		return nil
	}
	err := q.endTable()
	q.l2Index = index
	return err
}

func (q *qcow2) endTable() error {
	if !q.used {
		return nil
	}
	at := q.next * qcowCluster
	q.next++
	q.l1[q.l2Index] = uint64(at) | qcowCopied
	err := q.writeWords(at, q.l2)
	clear(q.l2)
	q.used = false
	return err
}

func (q *qcow2) writeWords(at int64, words []uint64) error {
	b := make([]byte, 0, 8*len(words))
	for _, w := range words {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	_, err := q.out.WriteAt(b, at)
	return err
}

func (q *qcow2) finish() error {
	if err := q.endTable(); err != nil {
		return err
	}
	if err := q.writeWords(qcowCluster, q.l1); err != nil {
		return err
	}
	// The refcounts also count the clusters they are in.
	blocks, tables := int64(0), int64(1)
	for {
		all := q.next + blocks + tables
		b := (all + qcowRefEntries - 1) / qcowRefEntries
		t := (b*8 + qcowCluster - 1) / qcowCluster
		if b == blocks && t == tables {
			break
		}
		blocks, tables = b, t
	}
	first, all := q.next, q.next+blocks+tables
	table := make([]uint64, blocks)
	one := []byte{0, 1}
	for i := range blocks {
		count := min(qcowRefEntries, all-i*qcowRefEntries)
		if _, err := q.out.WriteAt(bytes.Repeat(one, int(count)), (first+i)*qcowCluster); err != nil {
			return err
		}
		table[i] = uint64((first + i) * qcowCluster)
	}
	if err := q.writeWords((first+blocks)*qcowCluster, table); err != nil {
		return err
	}
	if err := q.out.Truncate(all * qcowCluster); err != nil {
		return err
	}
	return q.header((first+blocks)*qcowCluster, uint32(tables))
}

func (q *qcow2) header(refTable int64, refClusters uint32) error {
	be := binary.BigEndian
	b := append(make([]byte, 0, qcowHeader+8), "QFI\xfb"...)
	b = be.AppendUint32(b, 3)
	b = be.AppendUint64(b, 0) // no backing file
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, 16) // 2^16 bytes in a cluster
	b = be.AppendUint64(b, uint64(q.size))
	b = be.AppendUint32(b, 0) // not encrypted
	b = be.AppendUint32(b, uint32(len(q.l1)))
	b = be.AppendUint64(b, qcowCluster) // the L1 table
	b = be.AppendUint64(b, uint64(refTable))
	b = be.AppendUint32(b, refClusters)
	b = be.AppendUint32(b, 0) // no snapshots
	b = be.AppendUint64(b, 0)
	b = append(b, make([]byte, 24)...) // no features
	b = be.AppendUint32(b, 4)          // 2^4 bits of refcount
	b = be.AppendUint32(b, qcowHeader)
	b = append(b, make([]byte, 8)...) // the end of the header's extensions
	_, err := q.out.WriteAt(b, 0)
	return err
}
