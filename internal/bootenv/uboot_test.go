package bootenv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var demoVars = map[string]string{
	VarBootPart: "2", VarBootPartHex: "2", VarUpgradeAvailable: "0", VarBootCount: "0", VarBootLimit: "1",
	VarAltBootCmd: "run mender_altbootcmd; run bootcmd", "empty": "", "equals": "a=b=c", "lines": "one\ntwo",
}

func TestUBootRoundTrip(t *testing.T) {
	for name, vars := range map[string]map[string]string{"demo": demoVars, "none": {}} {
		for _, redundant := range []bool{false, true} {
			block, err := EncodeUBoot(vars, 0x400, redundant, 7)
			if err != nil {
				t.Fatal(err)
			}
			got, flag, err := DecodeUBoot(block, redundant)
			if err != nil {
				t.Fatalf("%s, redundant %t: %v", name, redundant, err)
			}
			if diff := cmp.Diff(vars, got); diff != "" {
				t.Errorf("%s, redundant %t: %s", name, redundant, diff)
			}
			if want := map[bool]byte{true: 7}[redundant]; flag != want {
				t.Errorf("%s, redundant %t: flag %d, want %d", name, redundant, flag, want)
			}
			if _, _, err := DecodeUBoot(block, !redundant); !errors.Is(err, ErrChecksum) {
				t.Errorf("%s: the other form gives %v, want %v", name, err, ErrChecksum)
			}
		}
	}
}

func TestUBootFlagIsNotInTheChecksum(t *testing.T) {
	block, err := EncodeUBoot(demoVars, 0x400, true, 1)
	if err != nil {
		t.Fatal(err)
	}
	block[4] = 9
	if _, flag, err := DecodeUBoot(block, true); err != nil || flag != 9 {
		t.Errorf("flag %d, error %v", flag, err)
	}
	for _, i := range []int{0, 5, len(block) - 1} {
		bad := bytes.Clone(block)
		bad[i] ^= 1
		if _, _, err := DecodeUBoot(bad, true); !errors.Is(err, ErrChecksum) {
			t.Errorf("byte %d changed: %v, want %v", i, err, ErrChecksum)
		}
	}
}

// seal makes a plain block with a right checksum around any bytes.
func seal(data string) []byte {
	block := append(make([]byte, 4), data...)
	binary.LittleEndian.PutUint32(block, crc32.ChecksumIEEE(block[4:]))
	return block
}

func TestUBootDecodesWhatOthersWrite(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want map[string]string
	}{
		"0xff padding":          {"a=1\x00\x00\xff\xff\xff=x", map[string]string{"a": "1"}},
		"no end":                {"a=1\x00b=2", map[string]string{"a": "1", "b": "2"}},
		"later wins":            {"a=1\x00a=2\x00\x00", map[string]string{"a": "2"}},
		"no equals sign":        {"junk\x00a=1\x00\x00", map[string]string{"a": "1"}},
		"no name":               {"=junk\x00a=1\x00\x00", map[string]string{"a": "1"}},
		"only padding, saveenv": {"\x00\x00\x00\x00", map[string]string{}},
	} {
		got, _, err := DecodeUBoot(seal(c.data), false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestUBootSize(t *testing.T) {
	vars := map[string]string{"a": "1234"} // 7 bytes and the final NUL
	if _, err := EncodeUBoot(vars, 5+8, true, 1); err != nil {
		t.Errorf("exact fit: %v", err)
	}
	_, err := EncodeUBoot(vars, 5+7, true, 1)
	var se *SizeError
	if !errors.As(err, &se) || se.Need != 13 || se.Size != 12 || se.Hint() == "" {
		t.Errorf("one byte short: %v", err)
	}
	for _, size := range []int{-1, 0, 5, MaxUBootSize + 1} {
		if _, err := EncodeUBoot(nil, size, true, 1); err == nil {
			t.Errorf("size %d accepted", size)
		}
	}
	if _, _, err := DecodeUBoot(nil, true); err == nil {
		t.Error("empty block accepted")
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b byte
		want int
	}{
		{1, 1, 0}, {1, 2, 1}, {3, 2, 0}, {255, 0, 1}, {0, 255, 0}, {254, 255, 1}, {1, 255, 1}, {255, 1, 0}, {0, 1, 1},
	} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("newer(%d, %d) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestVariablesThatCannotBeStored(t *testing.T) {
	for name, vars := range map[string]map[string]string{
		"empty name": {"": "x"}, "equals": {"a=b": "x"}, "NUL in name": {"a\x00b": "x"}, "newline in name": {"a\nb": "x"},
		"blank in name": {"a b": "x"}, "comment": {"#a": "x"}, "NUL in value": {"a": "x\x00y"},
	} {
		var ve *VarError
		if _, err := Apply(nil, vars); !errors.As(err, &ve) {
			t.Errorf("%s: Update gives %v, want a VarError", name, err)
		}
		if _, err := EncodeGRUB(vars); !errors.As(err, &ve) {
			t.Errorf("%s: EncodeGRUB gives %v, want a VarError", name, err)
		}
	}
	for _, vars := range []map[string]string{{"": "x"}, {"a=b": "x"}, {"a\x00": "x"}, {"a": "\x00"}} {
		var ve *VarError
		if _, err := EncodeUBoot(vars, 0x100, true, 1); !errors.As(err, &ve) {
			t.Errorf("EncodeUBoot(%q) gives %v, want a VarError", vars, err)
		}
	}
}

func TestParseFwEnvConfig(t *testing.T) {
	text := "# Mender\n\n/dev/mmcblk0\t0x800000  0x20000 # first\n/dev/mmcblk0 16777216 20000 0x200 1\n"
	got, err := ParseFwEnvConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Location{{"/dev/mmcblk0", 0x800000, 0x20000, 0}, {"/dev/mmcblk0", 0x1000000, 0x20000, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	back, err := ParseFwEnvConfig(bytes.NewReader(FormatFwEnvConfig(want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
}

func TestParseFwEnvConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "no location",
		"# nothing\n":                          "no location",
		"/dev/a 0x0\n":                         "line 1: 2 fields",
		"/dev/a 0 0x100 1 1 1\n":               "line 1: 6 fields",
		"\n/dev/a -0x1000 0x100\n":             "line 2: offset -0x1000 counts from the end",
		"/dev/a zero 0x100\n":                  `"zero" is no offset`,
		"/dev/a 0b1 0x100\n":                   `"0b1" is no offset`,
		"/dev/a 1_0 0x100\n":                   `"1_0" is no offset`,
		"/dev/a 0 0xgg\n":                      `"0xgg" is no size`,
		"/dev/a 0 -1\n":                        `"-1" is no size`,
		"/dev/a 0 0x100 x\n":                   `"x" is no sector size`,
		"/dev/a 0 0x100 1 x\n":                 `"x" is no number of sectors`,
		"/dev/a 0 0\n":                         "no size for an environment",
		"/dev/a 0 0xffffffffff\n":              "no size for an environment",
		"/dev/a 0x7fffffffffffffff 0x100\n":    "too large",
		"/d 0 0x10\n/d 0x10 0x10\n/d 0x20 10":  "line 3: a third location",
		strings.Repeat("#", maxConfigSize+100): "more than",
	} {
		_, err := ParseFwEnvConfig(strings.NewReader(text))
		var ce *ConfigError
		if !errors.As(err, &ce) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzDecodeUBoot(f *testing.F) {
	for _, redundant := range []bool{false, true} {
		block, err := EncodeUBoot(demoVars, 0x200, redundant, 255)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(block, redundant)
	}
	f.Add(seal("junk\x00=x\x00a=\x00"), false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, redundant bool) {
		// The checksum would stop nearly every input; put a right one.
		if header := ubootHeader(redundant); len(data) > header {
			binary.LittleEndian.PutUint32(data, crc32.ChecksumIEEE(data[header:]))
		}
		vars, flag, err := DecodeUBoot(data, redundant)
		if err != nil {
			return
		}
		block, err := EncodeUBoot(vars, len(data)+2, redundant, flag)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		again, flag2, err := DecodeUBoot(block, redundant)
		if err != nil || flag2 != flag {
			t.Fatalf("flag %d, then %d: %v", flag, flag2, err)
		}
		if diff := cmp.Diff(vars, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzParseFwEnvConfig(f *testing.F) {
	f.Add("/dev/mmcblk0 0x800000 0x20000\n/dev/mmcblk0 0x1000000 0x20000\n")
	f.Add("# x\n/dev/a -1 2 3 4\n")
	f.Fuzz(func(t *testing.T, text string) {
		locs, err := ParseFwEnvConfig(strings.NewReader(text))
		if err != nil {
			return
		}
		again, err := ParseFwEnvConfig(bytes.NewReader(FormatFwEnvConfig(locs)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(locs, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
