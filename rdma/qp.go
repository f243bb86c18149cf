package rdma

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"

	"github.com/pkg/errors"
)

// QP is a queue pair of a reliable connection. Only what asks for it completes with an
// entry in the CQ. Its receive queue is not for use.
type QP struct {
	life
	pd      *PD
	ptr     *C.struct_ibv_qp
	number  uint32
	granted QPConfig
}

// NewQP makes a queue pair in state RESET that completes to cq, to be closed before
// both. It fails with ErrFull, ErrMemlock, ErrDevice or ErrClosed.
func (pd *PD) NewQP(cq *CQ, cfg QPConfig) (*QP, error) {
	c := pd.context
	if cq.context != c {
		return nil, errors.Errorf("make a QP on %s: the CQ is of another device", c.name)
	}
	qp := &QP{pd: pd}
	if err := qp.begin(func() string { return "QP of " + c.name }, &pd.life, &cq.life); err != nil {
		return nil, err
	}
	limits := C.struct_mcv_qp_limits{
		send_depth:   C.uint32_t(cfg.SendDepth),
		sges:         C.uint32_t(cfg.MaxSGE),
		inline_bytes: C.uint32_t(cfg.MaxInline),
	}
	if errno := syscall.Errno(C.mcv_create_qp(pd.ptr, cq.ptr, &limits, &qp.ptr)); errno != 0 {
		qp.end()
		return nil, c.makeFailed(
			fmt.Sprintf("QP of %d work requests, %d pieces, %d bytes inline", cfg.SendDepth, cfg.MaxSGE, cfg.MaxInline),
			errno,
			fmt.Sprintf("it holds %d QPs of at most %d work requests and %d pieces",
				c.attributes.MaxQP, c.attributes.MaxQPWR, c.attributes.MaxSGE))
	}
	qp.number = uint32(qp.ptr.qp_num)
	qp.granted = QPConfig{int(limits.send_depth), int(limits.sges), int(limits.inline_bytes)}
	name := qp.name()
	qp.rename(func() string { return name })
	return qp, nil
}

func (qp *QP) name() string { return fmt.Sprintf("QP %d of %s", qp.number, qp.pd.context.name) }

// Number is what the peer must know.
func (qp *QP) Number() uint32 { return qp.number }

// SendDepth is how many work requests fit into the send queue.
func (qp *QP) SendDepth() int { return qp.granted.SendDepth }

// MaxSGE is how many pieces of local memory a work request may name.
func (qp *QP) MaxSGE() int { return qp.granted.MaxSGE }

// MaxInline is how many bytes a work request may carry itself.
func (qp *QP) MaxInline() int { return qp.granted.MaxInline }

// ToInit brings the QP from RESET to INIT.
func (qp *QP) ToInit(cfg InitConfig) error {
	return qp.to(QPInit, func() C.int {
		return C.mcv_to_init(qp.ptr, &C.struct_mcv_init{
			port:       C.uint32_t(cfg.Port),
			pkey_index: C.uint32_t(cfg.PKeyIndex),
			access:     C.uint32_t(cfg.Access &^ AccessRelaxedOrdering),
		})
	})
}

// ToRTR connects the QP from INIT to its peer: it answers then. EINVAL is also how a
// driver says that it cannot reach the peer from the own GID.
func (qp *QP) ToRTR(cfg RTRConfig) error {
	mtu, err := mtuCode(cfg.PathMTU)
	if err != nil {
		return err
	}
	c := C.struct_mcv_rtr{
		mtu:              C.uint32_t(mtu),
		remote_qp:        C.uint32_t(cfg.RemoteQP),
		receive_psn:      C.uint32_t(cfg.ReceivePSN),
		max_reads_in:     C.uint32_t(cfg.MaxReadsIn),
		min_rnr_timer:    C.uint32_t(cfg.MinRNRTimer),
		port:             C.uint32_t(cfg.Port),
		gid_index:        C.uint32_t(cfg.GIDIndex),
		hop_limit:        C.uint32_t(cfg.HopLimit),
		traffic_class:    C.uint32_t(cfg.TrafficClass),
		flow_label:       C.uint32_t(cfg.FlowLabel),
		lid:              C.uint32_t(cfg.LID),
		service_level:    C.uint32_t(cfg.ServiceLevel),
		source_path_bits: C.uint32_t(cfg.SourcePathBits),
		static_rate:      C.uint32_t(cfg.StaticRate),
	}
	if cfg.Global {
		c.global = 1
	}
	for i, b := range cfg.GID {
		c.gid[i] = C.uint8_t(b)
	}
	return qp.to(QPReadyToReceive, func() C.int { return C.mcv_to_rtr(qp.ptr, &c) })
}

// ToRTS makes the QP send, from RTR.
func (qp *QP) ToRTS(cfg RTSConfig) error {
	return qp.to(QPReadyToSend, func() C.int {
		return C.mcv_to_rts(qp.ptr, &C.struct_mcv_rts{
			timeout:     C.uint32_t(cfg.Timeout),
			retry_count: C.uint32_t(cfg.RetryCount),
			rnr_retry:   C.uint32_t(cfg.RNRRetry),
			send_psn:    C.uint32_t(cfg.SendPSN),
			max_reads:   C.uint32_t(cfg.MaxReads),
		})
	})
}

// ToError breaks the QP, whatever its state: everything posted completes, most of it as
// flushed, and the peer's requests are answered no more.
func (qp *QP) ToError() error {
	return qp.to(QPError, func() C.int { return C.mcv_to_error(qp.ptr) })
}

func (qp *QP) to(state QPState, modify func() C.int) error {
	if err := qp.use(); err != nil {
		return err
	}
	defer qp.leave()
	if errno := syscall.Errno(modify()); errno != 0 {
		return fail(fmt.Sprintf("bring %s to %s", qp.name(), state), ErrDevice, errno, "")
	}
	return nil
}

// State asks the device.
func (qp *QP) State() (QPState, error) {
	if err := qp.use(); err != nil {
		return QPReset, err
	}
	defer qp.leave()
	var state C.int
	if errno := syscall.Errno(C.mcv_query_qp_state(qp.ptr, &state)); errno != 0 {
		return QPReset, fail("query "+qp.name(), ErrDevice, errno, "")
	}
	return QPState(state), nil
}

// Close destroys the QP: the device forgets what was posted, and nothing of the peer's
// lands through it any more. Closing twice is safe.
func (qp *QP) Close() error {
	return qp.close(nil, func() error {
		return qp.pd.context.destroyed(fmt.Sprintf("QP %d", qp.number), syscall.Errno(C.mcv_destroy_qp(qp.ptr)))
	})
}
