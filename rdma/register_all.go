//go:build cgo

package rdma

import (
	"runtime"

	"github.com/pkg/errors"
)

// RegisterAll registers many ranges of host memory and gives the MRs of each, in order
// of address: more than one where a range is longer than an MR may be. access gives the
// access of range i and may be called by several goroutines. It registers all or none.
// Ranges are registered in parallel when that seems worth it. It fails as Register
// does; the error is that of one range and names it.
func (pd *PD) RegisterAll(ranges []AddrRange, access func(i int) Access, limit RegisterLimit) ([][]*MR, error) {
	if err := pd.use(); err != nil {
		return nil, err
	}
	defer pd.leave()
	parts, err := pd.split(ranges, limit.MaxSize)
	if err != nil {
		return nil, err
	}
	made := make([]*MR, len(parts))
	err = inParallel(len(parts), registerWorkers(parts, limit.Workers, runtime.GOMAXPROCS(0)), func(i int) error {
		mr, err := pd.Register(parts[i].Addr, parts[i].Length, access(parts[i].owner))
		if err != nil {
			return errors.WithMessagef(err, "range %d of %d", parts[i].owner, len(ranges))
		}
		made[i] = mr
		return nil
	})
	if err != nil {
		return nil, closeAll(made, err)
	}
	regions := make([][]*MR, len(ranges))
	for i, mr := range made {
		regions[parts[i].owner] = append(regions[parts[i].owner], mr)
	}
	return regions, nil
}

// split checks the ranges and cuts them to size.
func (pd *PD) split(ranges []AddrRange, most uint64) ([]part, error) {
	limits := pd.context.attributes
	if limits.MaxMRSize > 0 && (most == 0 || most > limits.MaxMRSize) {
		most = limits.MaxMRSize
	}
	for i, at := range ranges {
		if err := pd.checkRange(at); err != nil {
			return nil, errors.WithMessagef(err, "range %d of %d", i, len(ranges))
		}
	}
	if count := countParts(ranges, most); limits.MaxMR > 0 && count > uint64(limits.MaxMR) {
		return nil, errors.WithMessagef(ErrFull, "register %d ranges on %s: that is %d MRs of at most %d bytes, and the device holds %d",
			len(ranges), pd.context.name, count, most, limits.MaxMR)
	}
	return splitRanges(ranges, most), nil
}

// closeAll closes what was made before err.
func closeAll(made []*MR, err error) error {
	for _, mr := range made {
		if mr == nil {
			continue
		}
		if e := mr.Close(); e != nil {
			err = errors.WithMessagef(err, "%v, after", e)
		}
	}
	return err
}
