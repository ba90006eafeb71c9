package pipeline

import "bytes"

// plainlyShallow tells whether a source is certainly within the limits of [checkNesting], at a tenth of the price: lexing
// costs a quarter of the time that a whole pipeline takes, and nearly all sources are written plainly. It understands only
// what leaves no doubt where strings and comments end, and says false about everything else, which the lexer then decides:
// heredocs, block comments, quotes or brackets in strings, bytes beyond ASCII, brackets that do not match.
func plainlyShallow(src []byte) bool {
	const (
		depth   = 50
		perLine = maxOperators / depth // each open brace can leave one line's operators open
	)
	if bytes.Contains(src, []byte("<<")) || bytes.Contains(src, []byte("/*")) {
		return false
	}
	var open []byte // brackets
	operators := 0  // in this line, and those before it up to the last one that ended outside ( and [
	digits := 0
	for i := 0; i < len(src); i++ {
		c := src[i]
		if c >= '0' && c <= '9' {
			if digits++; digits > 300 {
				return false
			}
			continue
		}
		if digits > 0 && (c == 'e' || c == 'E') {
			return false // an exponent, perhaps
		}
		if c != '.' {
			digits = 0
		}
		switch c {
		case '"':
			end := plainString(src[i:])
			if end == 0 {
				return false
			}
			i += end - 1
		case '#':
			i = lineEnd(src, i)
		case '/':
			if i+1 < len(src) && src[i+1] == '/' {
				i = lineEnd(src, i)
			}
			operators++
		case '{', '(', '[':
			if len(open) == depth {
				return false
			}
			open = append(open, c)
			operators++
		case '}', ')', ']':
			if len(open) == 0 || c-open[len(open)-1] > 2 { // ASCII: ( ) and [ ] { } stand one and two apart
				return false
			}
			open = open[:len(open)-1]
		case '\n':
			if len(open) == 0 || open[len(open)-1] == '{' {
				operators = 0
			}
		case '\r':
			if i+1 == len(src) || src[i+1] != '\n' {
				return false
			}
		case '\t':
		case '+', '-', '*', '%', '=', '!', '<', '>', '&', '|', '?', '.', ':':
			operators++
		default:
			if c < ' ' || c >= 0x7f {
				return false
			}
		}
		if operators > perLine {
			return false
		}
	}
	return len(open) == 0
}

// lineEnd returns the offset before the end of the line, so that the line's end is looked at next.
func lineEnd(src []byte, i int) int {
	for i+1 < len(src) && src[i+1] != '\n' {
		if c := src[i+1]; c != '\t' && (c < ' ' && c != '\r' || c >= 0x7f) || c == '\r' && (i+2 == len(src) || src[i+2] != '\n') {
			return i // the loop meets the odd byte and gives up
		}
		i++
	}
	return i
}

// plainString returns the length of a string literal at the beginning of s whose only templates are interpolations of
// names, as "os-${var.version}"; 0 when there is none.
func plainString(s []byte) int {
	inside := false // an interpolation
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && !inside:
			return i + 1
		case c == '$' && !inside && i+1 < len(s) && s[i+1] == '{':
			if i > 1 && s[i-1] == '$' {
				return 0
			}
			inside = true
			i++
		case c == '}' && inside:
			inside = false
		case inside && !isNameByte(c):
			return 0
		case c < ' ' || c >= 0x7f || c == '\\' || c == '%' || c == '{' || c == '}' || c == '(' || c == ')' || c == '[' || c == ']':
			return 0
		}
	}
	return 0
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_'
}
