// Column: Go's own clientv3. Does what ../_worker.py does: reads what to do, a line of JSON each,
// and tells what it took. Built by ../_go.py with what Debian packages of etcd.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"go.etcd.io/etcd/clientv3"
)

const (
	key, value, watched = "bench/0001", "0123456789", "watched/"
	atOnce              = 64
	burst               = 100
	processCPU          = 2 // CLOCK_PROCESS_CPUTIME_ID: of all threads
)

type order struct {
	Row     string
	Address string
	Count   int
	Warm    int
	Lease   int64
}

type sample struct {
	CPU       float64   `json:"cpu"`
	Wall      float64   `json:"wall"`
	Latencies []float64 `json:"latencies"`
}

func say(what interface{}) {
	line, err := json.Marshal(what)
	check(err)
	fmt.Printf("%s\n", line)
}

// A failure ends the process, with its reason on stderr.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cpu() int64 {
	var now syscall.Timespec
	_, _, errno := syscall.Syscall(
		syscall.SYS_CLOCK_GETTIME, processCPU, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		check(errno)
	}
	return now.Nano()
}

// CPU time of this process, wall time, and how long each call took.
type clock struct {
	mutex     sync.Mutex
	latencies []float64
	cpu       int64
	wall      time.Time
}

func newClock() *clock {
	return &clock{latencies: []float64{}, cpu: cpu(), wall: time.Now()}
}

func (c *clock) sample(count int) map[string]sample {
	wall := float64(time.Since(c.wall).Nanoseconds())
	used := float64(cpu() - c.cpu)
	n := float64(count) * 1000
	return map[string]sample{"sample": {used / n, wall / n, c.latencies}}
}

func (c *clock) repeat(count int, operation func()) {
	latencies := make([]float64, 0, count)
	for i := 0; i < count; i++ {
		start := time.Now()
		operation()
		latencies = append(latencies, float64(time.Since(start).Nanoseconds())/1000)
	}
	c.mutex.Lock()
	c.latencies = append(c.latencies, latencies...)
	c.mutex.Unlock()
}

func open(address string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{address},
		DialTimeout: 10 * time.Second,
	})
	check(err)
	return client
}

var background = context.Background()

func put(client *clientv3.Client, name string) {
	_, err := client.Put(background, name, value)
	check(err)
}

func oneAtATime(o order, operation func()) {
	newClock().repeat(o.Warm, operation)
	c := newClock()
	c.repeat(o.Count, operation)
	say(c.sample(o.Count))
}

func seq(o order, client *clientv3.Client) {
	oneAtATime(o, func() { put(client, key) })
}

func get(o order, client *clientv3.Client) {
	put(client, key)
	oneAtATime(o, func() {
		_, err := client.Get(background, key, clientv3.WithSerializable())
		check(err)
	})
}

func renew(o order, client *clientv3.Client) {
	oneAtATime(o, func() {
		_, err := client.KeepAliveOnce(background, clientv3.LeaseID(o.Lease))
		check(err)
	})
}

func connect(o order, client *clientv3.Client) {
	put(client, key)
	oneAtATime(o, func() {
		another := open(o.Address)
		put(another, key)
		check(another.Close())
	})
}

func conc(o order, client *clientv3.Client) {
	puts := func(c *clock, count int) {
		var group sync.WaitGroup
		for i := 0; i < atOnce; i++ {
			group.Add(1)
			go func() {
				defer group.Done()
				c.repeat(count/atOnce, func() { put(client, key) })
			}()
		}
		group.Wait()
	}
	puts(newClock(), atOnce)
	c := newClock()
	puts(c, o.Count)
	say(c.sample(o.Count))
}

// Open a watch; entered when etcd has created it.
func watch(client *clientv3.Client) clientv3.WatchChan {
	events := client.Watch(
		background, watched, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	created := <-events
	check(created.Err())
	return events
}

func watchRow(o order, client *clientv3.Client) {
	events := watch(client)
	bursts := func(count int) {
		for i := 0; i < count; i++ {
			say(map[string]int{"burst": burst})
			for seen := 0; seen < burst; {
				answer := <-events
				check(answer.Err())
				seen += len(answer.Events)
			}
		}
	}
	bursts(o.Warm / burst)
	c := newClock()
	bursts(o.Count / burst)
	say(c.sample(o.Count))
}

func event(o order, client *clientv3.Client) {
	events := watch(client)
	echo := func() {
		seen := make(chan struct{})
		go func() {
			answer := <-events
			check(answer.Err())
			close(seen)
		}()
		put(client, watched+"01")
		<-seen
	}
	oneAtATime(o, echo)
}

func main() {
	rows := map[string]func(order, *clientv3.Client){
		"seq": seq, "get": get, "renew": renew, "connect": connect,
		"conc": conc, "watch": watchRow, "event": event,
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o order
		check(json.Unmarshal(lines.Bytes(), &o))
		client := open(o.Address)
		rows[o.Row](o, client)
		check(client.Close())
	}
}
