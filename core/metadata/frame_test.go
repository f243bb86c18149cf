package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
)

func TestFrameLayout(t *testing.T) {
	got := AppendFrame([]byte("x"), TypeNotify, []byte(`{}`))
	want := "x\x03\x00\x00\x00\x00\x00\x00\x00\x02{}"
	if string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
	got = AppendFrame(nil, TypeLegacy, []byte(`{}`))
	want = "\x02\x00\x00\x00\x00\x00\x00\x00{}"
	if string(got) != want {
		t.Errorf("legacy: %q, want %q", got, want)
	}
}

func TestFrameRoundTrip(t *testing.T) {
	large := bytes.Repeat([]byte(" "), 3*firstRead+17)
	for _, body := range [][]byte{[]byte("{}\n"), large} {
		for _, frameType := range []Type{TypeConnection, TypeMetadata, TypeNotify, TypeProbe, TypeLegacy} {
			frame := AppendFrame(nil, frameType, body)
			for _, r := range []io.Reader{
				bytes.NewReader(frame),
				iotest.OneByteReader(bytes.NewReader(frame)),
				iotest.DataErrReader(bytes.NewReader(frame)),
			} {
				gotType, got, err := ReadFrame(r, DefaultMaxLength)
				must(t, err)
				if gotType != frameType || !bytes.Equal(got, body) {
					t.Errorf("%s of %d bytes came back as %s of %d", frameType, len(body), gotType, len(got))
				}
			}
		}
	}
}

func TestReadFrameStopsAfterTheFrame(t *testing.T) {
	r := bytes.NewReader(append(AppendFrame(nil, TypeProbe, []byte("{}")), "rest"...))
	_, _, err := ReadFrame(r, 100)
	must(t, err)
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left %q, want %q", rest, "rest")
	}
}

func TestReadFrameLegacyByFirstByte(t *testing.T) {
	for first := range 256 {
		frame := append(binary.LittleEndian.AppendUint64(nil, 3), byte(first), 'a', 'b')
		frameType, body, err := ReadFrame(bytes.NewReader(frame), 10)
		switch {
		case first <= 3:
			if err != nil || frameType != Type(first) || string(body) != "ab" {
				t.Errorf("%#x: %s %q %v, want typed", first, frameType, body, err)
			}
		case first < 0x80:
			if err != nil || frameType != TypeLegacy || len(body) != 3 || body[0] != byte(first) {
				t.Errorf("%#x: %s %q %v, want legacy", first, frameType, body, err)
			}
		default:
			wantText(t, err, "unknown type")
		}
	}
}

func TestReadFrameLengths(t *testing.T) {
	length := func(n uint64) io.Reader {
		return bytes.NewReader(append(binary.LittleEndian.AppendUint64(nil, n), bytes.Repeat([]byte{1}, 200)...))
	}
	for _, n := range []uint64{0, 101, 1 << 32, 1 << 63, ^uint64(0)} {
		_, _, err := ReadFrame(length(n), 100)
		wantText(t, err, "MC_HANDSHAKE_MAX_LENGTH", "100")
	}
	for _, n := range []uint64{1, 100} {
		_, body, err := ReadFrame(length(n), 100)
		must(t, err)
		if uint64(len(body)) != n-1 {
			t.Errorf("length %d: body of %d", n, len(body))
		}
	}
}

func TestReadFrameTruncated(t *testing.T) {
	frame := AppendFrame(nil, TypeMetadata, []byte(`{"a":1}`))
	if _, _, err := ReadFrame(bytes.NewReader(nil), 100); err != io.EOF {
		t.Errorf("nothing: %v, want EOF", err)
	}
	for n := 1; n < len(frame); n++ {
		_, _, err := ReadFrame(bytes.NewReader(frame[:n]), 100)
		wantKind(t, err, io.ErrUnexpectedEOF)
	}
	broken := errors.New("broken")
	for n := 0; n < len(frame); n++ {
		_, _, err := ReadFrame(io.MultiReader(bytes.NewReader(frame[:n]), iotest.ErrReader(broken)), 100)
		wantKind(t, err, broken)
	}
}

func TestReadFrameTrustsBytesNotTheLength(t *testing.T) {
	claim := append(binary.LittleEndian.AppendUint64(nil, 1<<40), bytes.Repeat([]byte{'{'}, 1000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := ReadFrame(bytes.NewReader(claim), 1<<41)
	runtime.ReadMemStats(&after)
	wantKind(t, err, io.ErrUnexpectedEOF)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20 {
		t.Errorf("%d bytes allocated for a frame of which 1000 bytes came", spent)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, TypeMetadata, []byte("{}")))
	f.Add(AppendFrame(nil, TypeLegacy, []byte(`{"qp_num":[]}`)))
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0x80})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 1 << 16
		frameType, body, err := ReadFrame(bytes.NewReader(stream), limit)
		slowType, slow, slowErr := ReadFrame(iotest.OneByteReader(bytes.NewReader(stream)), limit)
		if (err == nil) != (slowErr == nil) || frameType != slowType || !bytes.Equal(body, slow) {
			t.Fatalf("at once %v %q %v, byte by byte %v %q %v", frameType, body, err, slowType, slow, slowErr)
		}
		if err != nil {
			return
		}
		if frame := AppendFrame(nil, frameType, body); !bytes.HasPrefix(stream, frame) || frameLength(frameType, body) > limit {
			t.Fatalf("%q was read as %s %q", stream, frameType, body)
		}
	})
}
