package local

import (
	"log/slog"
	"runtime/debug"

	"github.com/pkg/errors"
)

// recovered is deferred by every goroutine of this package: a bug of ours must not
// end the host process. then, if not nil, is told, to fail what the goroutine was for.
func recovered(log *slog.Logger, what string, then func(error)) {
	p := recover()
	if p == nil {
		return
	}
	err := errors.Errorf("panic in %s: %v", what, p)
	log.Error("bug in mooncake", "err", err, "stack", string(debug.Stack()))
	if then != nil {
		then(err)
	}
}
