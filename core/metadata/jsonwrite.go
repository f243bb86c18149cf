package metadata

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON is written as upstream writes it: compact, members in the byte order of
// their names, only ASCII.

const hexDigits = "0123456789abcdef"

func appendString(dst []byte, text string) []byte {
	dst = append(dst, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r >= ' ' && r < utf8.RuneSelf-1:
			dst = append(dst, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			dst = appendEscape(appendEscape(dst, high), low)
		default:
			dst = appendEscape(dst, r)
		}
	}
	return append(dst, '"')
}

func appendEscape(dst []byte, unit rune) []byte {
	return append(dst, '\\', 'u',
		hexDigits[unit>>12&15], hexDigits[unit>>8&15], hexDigits[unit>>4&15], hexDigits[unit&15])
}

// appendMember appends a member's name and colon, after a comma if it is not the
// first of its object.
func appendMember(dst []byte, name string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(appendString(dst, name), ':')
}

func appendStringMember(dst []byte, name, value string) []byte {
	return appendString(appendMember(dst, name), value)
}

func appendUintMember(dst []byte, name string, value uint64) []byte {
	return strconv.AppendUint(appendMember(dst, name), value, 10)
}

func appendUint32sMember(dst []byte, name string, values []uint32) []byte {
	dst = append(appendMember(dst, name), '[')
	for i, value := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(value), 10)
	}
	return append(dst, ']')
}
