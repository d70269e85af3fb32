// Takes part in locks, elections, transactions, barriers and queues as a client of Go does.
//
//	go_peer WHAT ENDPOINT NAME [ARGUMENT...]
//
// Each thing that has come to pass is a line on stdout; a line on stdin lets it go on.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	recipe "go.etcd.io/etcd/contrib/recipes"
)

var stdin = bufio.NewScanner(os.Stdin)

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func say(text string) {
	fmt.Println(text)
}

func await() {
	stdin.Scan()
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	must(err)
	return n
}

func session(client *clientv3.Client) *concurrency.Session {
	s, err := concurrency.NewSession(client)
	must(err)
	return s
}

func main() {
	what, endpoint, name, arguments := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	must(err)
	defer client.Close()
	ctx := context.Background()
	switch what {
	case "lock":
		mutex := concurrency.NewMutex(session(client), name)
		must(mutex.Lock(ctx))
		say("locked")
		await()
		must(mutex.Unlock(ctx))
	case "elect":
		election := concurrency.NewElection(session(client), name)
		must(election.Campaign(ctx, arguments[0]))
		say("leads")
		await()
		must(election.Proclaim(ctx, arguments[1]))
		await()
		must(election.Resign(ctx))
	case "observe":
		for leader := range concurrency.NewElection(session(client), name).Observe(ctx) {
			say(string(leader.Kvs[0].Value))
		}
	case "increment":
		for i := 0; i < number(arguments[0]); i++ {
			_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
				count, _ := strconv.Atoi(stm.Get(name))
				stm.Put(name, strconv.Itoa(count+1))
				return nil
			})
			must(err)
		}
	case "hold":
		must(recipe.NewBarrier(client, name).Hold())
		say("held")
		await()
		must(recipe.NewBarrier(client, name).Release())
	case "wait":
		say("waits")
		must(recipe.NewBarrier(client, name).Wait())
		say("passed")
	case "double":
		barrier := recipe.NewDoubleBarrier(session(client), name, number(arguments[0]))
		must(barrier.Enter())
		say("entered")
		await()
		must(barrier.Leave())
		say("left")
	case "enqueue":
		for _, value := range arguments {
			must(recipe.NewQueue(client, name).Enqueue(value))
		}
	case "dequeue":
		for i := 0; i < number(arguments[0]); i++ {
			value, err := recipe.NewQueue(client, name).Dequeue()
			must(err)
			say(value)
		}
	case "enqueue-by-priority":
		priority := uint16(number(arguments[0]))
		for _, value := range arguments[1:] {
			must(recipe.NewPriorityQueue(client, name).Enqueue(value, priority))
		}
	case "dequeue-by-priority":
		for i := 0; i < number(arguments[0]); i++ {
			value, err := recipe.NewPriorityQueue(client, name).Dequeue()
			must(err)
			say(value)
		}
	}
}
