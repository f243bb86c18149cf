package metadata

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// JSON is read by these few functions instead of into structs because the
// wire needs what encoding/json does not give: member names compared exactly,
// 64-bit integers and nothing that merely resembles one, and errors that name
// the member. Values are passed around as their text. All but jsonValue expect
// the text of one valid value without surrounding space.
//
// null stands for an absent value everywhere, as it does upstream.

// jsonValue checks that body is one JSON value and nothing else, and returns
// its text.
func jsonValue(body []byte) ([]byte, error) {
	if !json.Valid(body) {
		return nil, errors.Errorf("not JSON: %s", excerpt(body))
	}
	return bytes.Trim(body, " \t\r\n"), nil
}

func isNull(value []byte) bool { return len(value) == 0 || value[0] == 'n' }

// readMembers calls each for the members of an object, in order, duplicates
// included. The member shares the memory of value.
func readMembers(value []byte, each func(key string, member []byte) error) error {
	if len(value) == 0 || value[0] != '{' {
		return errors.Errorf("must be an object, not %s", excerpt(value))
	}
	at := skipSpace(value, 1)
	for value[at] != '}' {
		end := valueEnd(value, at)
		key, err := readString(value[at:end])
		if err != nil {
			return err
		}
		at = skipSpace(value, end)
		at = skipSpace(value, at+1) // the colon
		end = valueEnd(value, at)
		if err := each(key, value[at:end]); err != nil {
			return err
		}
		at = skipSeparator(value, end)
	}
	return nil
}

// readElements calls each for the elements of an array; null has none.
func readElements(value []byte, each func(index int, element []byte) error) error {
	if isNull(value) {
		return nil
	}
	if value[0] != '[' {
		return errors.Errorf("must be an array, not %s", excerpt(value))
	}
	at := skipSpace(value, 1)
	for index := 0; value[at] != ']'; index++ {
		end := valueEnd(value, at)
		if err := each(index, value[at:end]); err != nil {
			return err
		}
		at = skipSeparator(value, end)
	}
	return nil
}

// readString is the string, or "" for null. What is not UTF-8 in it becomes
// U+FFFD.
func readString(value []byte) (string, error) {
	if isNull(value) {
		return "", nil
	}
	if value[0] != '"' {
		return "", errors.Errorf("must be a string, not %s", excerpt(value))
	}
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return strings.ToValidUTF8(string(inner), "\ufffd"), nil
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return "", errors.Wrap(err, "string")
	}
	return text, nil
}

// readUint is the integer, or 0 for null. It never passes through a float.
func readUint(value []byte, max uint64) (uint64, error) {
	if isNull(value) {
		return 0, nil
	}
	var n uint64
	for _, c := range value {
		digit := uint64(c - '0')
		if digit > 9 {
			return 0, errors.Errorf("must be an unsigned integer, not %s", excerpt(value))
		}
		if n > (math.MaxUint64-digit)/10 {
			return 0, errors.Errorf("must be at most %d, not %s", max, excerpt(value))
		}
		n = n*10 + digit
	}
	if n > max {
		return 0, errors.Errorf("must be at most %d, not %s", max, excerpt(value))
	}
	return n, nil
}

// readUint32s is the array of integers, nil if it is null or empty.
func readUint32s(value []byte) ([]uint32, error) {
	var numbers []uint32
	err := readElements(value, func(i int, element []byte) error {
		n, err := readUint(element, math.MaxUint32)
		if err != nil {
			return atIndex(err, i)
		}
		numbers = append(numbers, uint32(n))
		return nil
	})
	return numbers, err
}

// readBool is the truth value, nil for null.
func readBool(value []byte) (*bool, error) {
	if isNull(value) {
		return nil, nil
	}
	is := value[0] == 't'
	if !is && value[0] != 'f' {
		return nil, errors.Errorf("must be true or false, not %s", excerpt(value))
	}
	return &is, nil
}

// valueEnd is the index after the value that begins at at.
func valueEnd(text []byte, at int) int {
	switch text[at] {
	case '"':
		return stringEnd(text, at)
	case '{', '[':
		return nestEnd(text, at)
	}
	for at < len(text) && !endsScalar(text[at]) {
		at++
	}
	return at
}

func stringEnd(text []byte, at int) int {
	for at++; text[at] != '"'; at++ {
		if text[at] == '\\' {
			at++
		}
	}
	return at + 1
}

func nestEnd(text []byte, at int) int {
	for depth := 0; ; at++ {
		switch text[at] {
		case '"':
			at = stringEnd(text, at) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return at + 1
			}
		}
	}
}

func endsScalar(c byte) bool {
	return c == ',' || c == ']' || c == '}' || isSpace(c)
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n'
}

func skipSpace(text []byte, at int) int {
	for isSpace(text[at]) {
		at++
	}
	return at
}

// skipSeparator skips space and the comma before the next member or element.
func skipSeparator(text []byte, at int) int {
	if at = skipSpace(text, at); text[at] == ',' {
		at = skipSpace(text, at+1)
	}
	return at
}

// maxExcerpt bounds foreign content in errors and in the log.
const maxExcerpt = 80

// maxReason bounds a peer's reason for a rejection, likewise.
const maxReason = 400

// excerpt is the beginning of a foreign text, quoted.
func excerpt(text []byte) string {
	if len(text) > maxExcerpt {
		return strconv.QuoteToASCII(string(text[:maxExcerpt])) + "..."
	}
	return strconv.QuoteToASCII(string(text))
}

func excerptString(text string) string { return excerptUpTo(text, maxExcerpt) }

// excerptUpTo is the same for a text that may say more.
func excerptUpTo(text string, most int) string {
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "..."
	}
	return strconv.QuoteToASCII(text)
}
