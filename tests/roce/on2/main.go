// Command on2 runs programs on the other emulated host, as ssh would:
//
//	on2 serve                 on host 2: serves until told to stop
//	on2 run COMMAND ARG...    on host 1: input, output and exit status are the command's
//	on2 wait                  returns when host 2 serves
//	on2 stop                  ends serve
//
// The command has the caller's environment and folder. It dies with SIGKILL, and all that it has
// started, when on2 run does, and receives the signals INT and TERM that on2 run receives.
//
// ROCE_ON2 is the address that serve listens on.
package main

import (
	"fmt"
	"os"
)

func main() {
	address := os.Getenv("ROCE_ON2")
	status, err := 0, error(nil)
	switch {
	case address == "":
		err = fmt.Errorf("ROCE_ON2 is not set: it is the address of host 2's server")
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve(address)
	case len(os.Args) > 2 && os.Args[1] == "run":
		status, err = run(address, os.Args[2:])
	case len(os.Args) == 2 && os.Args[1] == "wait":
		status, err = run(address, nil)
	case len(os.Args) == 2 && os.Args[1] == "stop":
		err = stop(address)
	default:
		err = fmt.Errorf("usage: on2 serve | run COMMAND ARG... | wait | stop")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "on2:", err)
		os.Exit(255)
	}
	os.Exit(status)
}
