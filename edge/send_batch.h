// What waits for many sockets, sent by one system call where the kernel has io_uring: the way into
// the kernel and back is paid once for all of them.
//
//     auto batch = SendBatch::make();           // or why it is not to be had
//     batch->add(fd, outbox, counters);         // for each; nothing is copied
//     batch->send(counters);                    // and the outboxes hold what was not taken
//
// Only ever a head start: of a socket that takes a part, or nothing, or that has failed, the outbox
// keeps the rest, and whoever sends that by sendmsg(2) hears the reason from the socket itself.
//
// Every send is told not to wait, so that it is over, with its result, when the system call
// returns. send() waits for the results all the same before it returns: between add() and that
// nothing else runs, so no socket or outbox can go away. Descriptors are not registered with the
// ring, which would keep a socket open that its owner has closed.
//
// Runs on: the loop. Bounds: kSocketsMax sockets and kPartsMax frames; what is one too many has
// those before it sent at once.
#pragma once

#include <cstddef>
#include <memory>

#include "common/result.h"
#include "edge/outbox.h"

namespace sigmacast::edge {

struct WireCounters;

class SendBatch {
 public:
    static constexpr std::size_t kSocketsMax = 256;
    static constexpr std::size_t kPartsMax = 4'096;

    /// Errors: kUnavailable, the kernel, a sysctl or a filter of system calls does not let this
    /// process.
    static Result<std::unique_ptr<SendBatch>> make();
    ~SendBatch();
    SendBatch(const SendBatch&) = delete;
    SendBatch& operator=(const SendBatch&) = delete;

    /// What waits in `outbox` now is to be sent to a plain, connected socket. Both stay as they are
    /// until send() has returned.
    void add(int socket, Outbox& outbox, WireCounters& counters);
    void send(WireCounters& counters);
    /// The kernel has failed it: nothing is sent any more.
    [[nodiscard]] bool broken() const;

 private:
    struct Impl;
    explicit SendBatch(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace sigmacast::edge
