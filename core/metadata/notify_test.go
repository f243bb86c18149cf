package metadata

import (
	"strings"
	"testing"
)

func TestNotificationBothWays(t *testing.T) {
	for _, n := range []Notification{{}, {"a", "b"}, {"quote \" \\ \n", "ä𝄞\x00"}, {Message: strings.Repeat("x", 1<<20)}} {
		body, err := encodeNotification(n)
		must(t, err)
		back, err := decodeNotification(body)
		must(t, err)
		if back != n {
			t.Errorf("%.40q came back as %.40q", n, back)
		}
	}
	body, err := encodeNotification(Notification{"room", "hi"})
	must(t, err)
	if want := `{"name":"room","notify_msg":"hi"}` + "\n"; string(body) != want {
		t.Errorf("%q, want %q", body, want)
	}
}

func TestEncodeNotificationRefuses(t *testing.T) {
	_, err := encodeNotification(Notification{Name: "\xff"})
	wantKind(t, err, ErrArgument)
	wantText(t, err, "name")
	_, err = encodeNotification(Notification{Message: "\xff"})
	wantKind(t, err, ErrArgument)
	wantText(t, err, "message")
}

func TestDecodeNotification(t *testing.T) {
	good := map[string]Notification{
		`{}`:                              {},
		`{"name":null,"notify_msg":null}`: {},
		`{"notify_msg":"m","other":[1],"name":"n"}`: {"n", "m"},
		`{"name":"a","name":"b"}`:                   {Name: "b"},
	}
	for text, want := range good {
		n, err := decodeNotification([]byte(text))
		must(t, err)
		if n != want {
			t.Errorf("%s: %+v, want %+v", text, n, want)
		}
	}
	bad := map[string]string{
		``:                    "not JSON",
		`{"name":"a"`:         "not JSON",
		`[]`:                  "must be an object",
		`null`:                "must be an object",
		`"name"`:              "must be an object",
		`{"name":1}`:          "name: must be a string",
		`{"notify_msg":{}}`:   "notify_msg: must be a string",
		`{"notify_msg":[""]}`: "notify_msg: must be a string",
	}
	for text, want := range bad {
		_, err := decodeNotification([]byte(text))
		wantText(t, err, want)
	}
}
