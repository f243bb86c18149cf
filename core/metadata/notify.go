package metadata

import (
	"unicode/utf8"

	"github.com/pkg/errors"
)

// Notification is two strings that one engine leaves with another.
type Notification struct {
	Name, Message string
}

// notifyAccepted is what upstream answers; any text that is not empty would do.
const notifyAccepted = "success"

// encodeNotification writes the body of a notify request or reply. JSON cannot
// carry what is not UTF-8: that is ErrArgument.
func encodeNotification(n Notification) ([]byte, error) {
	if !utf8.ValidString(n.Name) {
		return nil, failf(ErrArgument, "notification: name %s is not UTF-8", excerptString(n.Name))
	}
	if !utf8.ValidString(n.Message) {
		return nil, failf(ErrArgument, "notification: message %s is not UTF-8", excerptString(n.Message))
	}
	out := append(make([]byte, 0, 64+len(n.Name)+len(n.Message)), '{')
	out = appendStringMember(out, "name", n.Name)
	out = appendStringMember(out, "notify_msg", n.Message)
	return append(out, "}\n"...), nil
}

// decodeNotification reads the body of a notify request or reply: an object
// whose members are strings, or absent.
func decodeNotification(body []byte) (n Notification, err error) {
	value, err := jsonValue(body)
	if err != nil {
		return n, errors.WithMessage(err, "notification")
	}
	err = readMembers(value, func(key string, member []byte) (err error) {
		switch key {
		case "name":
			n.Name, err = readString(member)
		case "notify_msg":
			n.Message, err = readString(member)
		}
		return atMember(err, key)
	})
	if err != nil {
		return Notification{}, errors.WithMessage(err, "notification")
	}
	return n, nil
}
