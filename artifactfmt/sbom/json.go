package sbom

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const (
	maxDepth   = 64
	maxCapture = 256 // bytes of a name or a text at the top that are kept
)

// errStop ends a scan early without an error.
var errStop = errors.New("stop")

// scanJSON checks that r holds one JSON value in valid UTF-8, to the end of r, with memory that does not depend on it:
// encoding/json holds at least each whole text. For each member of the object at the top, member is told its name and, if it is
// a text, its value; longer ones than maxCapture are given as "". Errors of r are returned as they are.
func scanJSON(r *bufio.Reader, member func(name, value string) error) error {
	s := scanner{r: r, member: member}
	err := s.scan()
	if errors.Is(err, io.EOF) {
		return &FormatError{Reason: "it ends too early"}
	}
	return err
}

type scanner struct {
	r      *bufio.Reader
	offset int64
	member func(name, value string) error
	open   []byte // the lists and objects around the present place
	name   string // of the present member at the top
}

func (s *scanner) scan() error {
	for {
		done, err := s.value()
		if err == nil && done {
			done, err = s.next()
		}
		switch {
		case err != nil:
			return err
		case done:
			return nil
		}
	}
}

// value reads a value, or the start of a list or an object that is not empty; done tells which.
func (s *scanner) value() (done bool, err error) {
	c, err := s.nonspace()
	if err != nil {
		return false, err
	}
	text := ""
	top := len(s.open) == 1 && s.open[0] == '{'
	switch {
	case c == '{' || c == '[':
		if top {
			if err := s.member(s.name, ""); err != nil {
				return false, err
			}
		}
		return s.start(c)
	case c == '"':
		if text, err = s.text(top); err != nil {
			return false, err
		}
	case c == '-' || c >= '0' && c <= '9':
		err = s.number(c)
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		err = s.literal("null")
	default:
		return false, s.unexpected(c)
	}
	if err == nil && top {
		err = s.member(s.name, text)
	}
	return true, err
}

// start opens a list or an object.
func (s *scanner) start(c byte) (done bool, err error) {
	if len(s.open) == maxDepth {
		return false, s.fail("it is nested deeper than %d levels", maxDepth)
	}
	s.open = append(s.open, c)
	next, err := s.nonspace()
	switch {
	case err != nil:
		return false, err
	case next == c+2: // '}' follows '{', and ']' follows '[', by two
		s.open = s.open[:len(s.open)-1]
		return true, nil
	case c == '{':
		return false, s.key(next)
	}
	return false, s.unread()
}

// next reads what stands between two values: commas, names and ends. It is done at the end of all.
func (s *scanner) next() (done bool, err error) {
	for len(s.open) > 0 {
		around := s.open[len(s.open)-1]
		c, err := s.nonspace()
		switch {
		case err != nil:
			return false, err
		case c == around+2:
			s.open = s.open[:len(s.open)-1]
		case c != ',':
			return false, s.unexpected(c)
		case around == '[':
			return false, nil
		default:
			if c, err = s.nonspace(); err != nil {
				return false, err
			}
			return false, s.key(c)
		}
	}
	switch c, err := s.nonspace(); {
	case errors.Is(err, io.EOF):
		return true, nil
	case err != nil:
		return false, err
	default:
		return false, s.unexpected(c)
	}
}

// key reads the name of a member, whose first character is c, and the colon.
func (s *scanner) key(c byte) error {
	if c != '"' {
		return s.unexpected(c)
	}
	name, err := s.text(len(s.open) == 1)
	if err != nil {
		return err
	}
	if len(s.open) == 1 {
		s.name = name
	}
	if c, err = s.nonspace(); err != nil {
		return err
	}
	if c != ':' {
		return s.unexpected(c)
	}
	return nil
}

// text reads a string behind its first quote, and returns it if it is to be kept and not too long.
func (s *scanner) text(keep bool) (string, error) {
	var kept []byte
	if keep {
		kept = append(kept, '"')
	}
	for {
		c, err := s.byte()
		if err != nil {
			return "", err
		}
		if keep && len(kept) <= maxCapture {
			kept = append(kept, c)
		}
		switch {
		case c == '"':
			var text string
			if !keep || len(kept) > maxCapture || json.Unmarshal(kept, &text) != nil {
				return "", nil
			}
			return text, nil
		case c == '\\':
			escape, err := s.escape()
			if err != nil {
				return "", err
			}
			if keep && len(kept) <= maxCapture {
				kept = append(kept, escape...)
			}
		case c < ' ':
			return "", s.unexpected(c)
		case c >= utf8.RuneSelf:
			if err := s.unread(); err != nil {
				return "", err
			}
			char, n, err := s.r.ReadRune()
			if err != nil {
				return "", err
			}
			if char == utf8.RuneError && n == 1 {
				return "", s.fail("it is not valid UTF-8")
			}
			s.offset += int64(n)
			if keep && len(kept) <= maxCapture {
				kept = utf8.AppendRune(kept[:len(kept)-1], char)
			}
		}
	}
}

// escape reads what follows a backslash.
func (s *scanner) escape() ([]byte, error) {
	c, err := s.byte()
	if err != nil {
		return nil, err
	}
	escape := []byte{c}
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return escape, nil
	case 'u':
		for range 4 {
			c, err := s.byte()
			if err != nil {
				return nil, err
			}
			if !isHex(c) {
				return nil, s.unexpected(c)
			}
			escape = append(escape, c)
		}
		return escape, nil
	}
	return nil, s.unexpected(c)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// number reads a number whose first character is c.
func (s *scanner) number(c byte) error {
	var err error
	if c == '-' {
		if c, err = s.byte(); err != nil {
			return err
		}
	}
	if c < '0' || c > '9' {
		return s.unexpected(c)
	}
	if c == '0' { // no digit follows it
		if c, err = s.byte(); err != nil {
			return s.endOfNumber(err)
		}
	} else if c, err = s.digits(); err != nil {
		return s.endOfNumber(err)
	}
	if c == '.' {
		if c, err = s.someDigits(); err != nil {
			return s.endOfNumber(err)
		}
	}
	if c == 'e' || c == 'E' {
		if c, err = s.byte(); err != nil {
			return err
		}
		if c != '+' && c != '-' {
			if err := s.unread(); err != nil {
				return err
			}
		}
		if _, err = s.someDigits(); err != nil {
			return s.endOfNumber(err)
		}
	}
	return s.unread()
}

// endOfNumber allows a number alone at the top to be the end of the input.
func (s *scanner) endOfNumber(err error) error {
	if errors.Is(err, io.EOF) && len(s.open) == 0 {
		return nil
	}
	return err
}

// someDigits reads one digit or more and the character behind them.
func (s *scanner) someDigits() (byte, error) {
	c, err := s.byte()
	switch {
	case errors.Is(err, io.EOF):
		return 0, &FormatError{Reason: "it ends too early"}
	case err != nil:
		return 0, err
	case c < '0' || c > '9':
		return 0, s.unexpected(c)
	}
	return s.digits()
}

func (s *scanner) digits() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil || c < '0' || c > '9' {
			return c, err
		}
	}
}

// literal reads the rest of a word whose first character was read.
func (s *scanner) literal(word string) error {
	for i := 1; i < len(word); i++ {
		c, err := s.byte()
		if err != nil {
			return err
		}
		if c != word[i] {
			return s.unexpected(c)
		}
	}
	return nil
}

func (s *scanner) nonspace() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, err
		}
	}
}

func (s *scanner) byte() (byte, error) {
	c, err := s.r.ReadByte()
	s.offset++
	return c, err
}

func (s *scanner) unread() error {
	s.offset--
	return s.r.UnreadByte()
}

func (s *scanner) unexpected(c byte) error { return s.fail("it is not JSON: unexpected %q", rune(c)) }

func (s *scanner) fail(reason string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(reason, args...) + fmt.Sprintf(" at byte %d", s.offset)}
}
