#include "edge/send_batch.h"

#include <liburing.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "common/log.h"
#include "edge/wire.h"

namespace sigmacast::edge {
namespace {

constexpr int kFlags = MSG_NOSIGNAL | MSG_DONTWAIT;

Error unavailable(const char* what, int negative) {
    return {Errc::kUnavailable, std::string(what) + ": " + std::strerror(-negative) +
                                    (negative == -EPERM ? " (kernel.io_uring_disabled, or a filter "
                                                          "of system calls, forbids it)"
                                                        : "")};
}

}  // namespace

struct SendBatch::Impl {
    ~Impl() {
        if (open) {
            io_uring_queue_exit(&ring);
        }
    }

    Result<> start() {
        if (const int made = io_uring_queue_init(kSocketsMax, &ring, 0); made < 0) {
            return unavailable("io_uring_setup", made);
        }
        open = true;
        io_uring_probe* known = io_uring_get_probe_ring(&ring);
        const bool sends = known && io_uring_opcode_supported(known, IORING_OP_SEND) &&
                           io_uring_opcode_supported(known, IORING_OP_SENDMSG);
        io_uring_free_probe(known);
        if (!sends) {
            return Error{Errc::kUnavailable, "io_uring of this kernel does not send"};
        }
        // A filter may let a ring be made, and not used.
        io_uring_prep_nop(io_uring_get_sqe(&ring));
        const int entered = io_uring_submit_and_wait(&ring, 1);
        if (entered < 0) {
            return unavailable("io_uring_enter", entered);
        }
        io_uring_cq_advance(&ring, 1);
        return {};
    }

    void prepare(std::size_t index) {
        const Waiting& each = waiting[index];
        iovec* const first = &parts[each.first_part];
        io_uring_sqe* const entry = io_uring_get_sqe(&ring);  // There are kSocketsMax of them.
        if (each.parts == 1) {
            io_uring_prep_send(entry, each.socket, first->iov_base, first->iov_len, kFlags);
        } else {
            messages[index] = {};
            messages[index].msg_iov = first;
            messages[index].msg_iovlen = each.parts;
            io_uring_prep_sendmsg(entry, each.socket, &messages[index], kFlags);
        }
        io_uring_sqe_set_data64(entry, index);
    }

    std::size_t take_results(WireCounters& counters) {
        unsigned head = 0;
        unsigned taken = 0;
        io_uring_cqe* result = nullptr;
        io_uring_for_each_cqe(&ring, head, result) {
            ++taken;
            if (result->res > 0) {
                const auto bytes = static_cast<std::size_t>(result->res);
                waiting[io_uring_cqe_get_data64(result)].outbox->consume(bytes);
                ++counters.flushes;
                ++counters.batched;
                counters.bytes += bytes;
            }
        }
        io_uring_cq_advance(&ring, taken);
        return taken;
    }

    struct Waiting {
        int socket;
        Outbox* outbox;
        std::size_t first_part;
        std::size_t parts;
    };
    io_uring ring{};
    bool open = false;
    bool broken = false;
    std::size_t sockets = 0;
    std::size_t parts_used = 0;
    std::array<Waiting, kSocketsMax> waiting;
    std::array<msghdr, kSocketsMax> messages;
    std::array<iovec, kPartsMax + Outbox::kPartsMax> parts;
};

Result<std::unique_ptr<SendBatch>> SendBatch::make() {
    auto impl = std::make_unique<Impl>();
    if (const Result<> started = impl->start(); !started) {
        return started.error();
    }
    return std::unique_ptr<SendBatch>(new SendBatch(std::move(impl)));
}

SendBatch::SendBatch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SendBatch::~SendBatch() = default;

void SendBatch::add(int socket, Outbox& outbox, WireCounters& counters) {
    Impl& own = *impl_;
    if (own.broken || outbox.empty()) {
        return;
    }
    if (own.sockets == kSocketsMax || own.parts_used >= kPartsMax) {
        send(counters);
    }
    const std::size_t parts = outbox.gather(std::span(own.parts).subspan(own.parts_used));
    own.waiting[own.sockets++] = {socket, &outbox, own.parts_used, parts};
    own.parts_used += parts;
}

void SendBatch::send(WireCounters& counters) {
    Impl& own = *impl_;
    const std::size_t sockets = std::exchange(own.sockets, 0);
    own.parts_used = 0;
    if (own.broken || sockets == 0) {
        return;
    }
    for (std::size_t i = 0; i < sockets; ++i) {
        own.prepare(i);
    }
    ++counters.batches;
    std::size_t submitted = 0;
    for (std::size_t done = 0; done < sockets; done += own.take_results(counters)) {
        const int result =
            io_uring_submit_and_wait(&own.ring, static_cast<unsigned>(sockets - done));
        if (result >= 0) {
            submitted += static_cast<std::size_t>(result);
        } else if (result != -EINTR && done == submitted) {  // Nothing is under way.
            // What the kernel has not taken is sent by each socket's owner.
            own.broken = true;
            log_warn(
                "io_uring failed; each client is sent to by a system call of its own until "
                "the next start",
                {{"why", std::strerror(-result)}});
            return;
        }
    }
}

bool SendBatch::broken() const {
    return impl_->broken;
}

}  // namespace sigmacast::edge
