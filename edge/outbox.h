// The bytes on their way to one socket, in order and by whole frames: what the WebSocket library
// writes (pongs, close) and the shared data frames go through the same queue, so that a control
// frame can only fall between two frames.
//
//     outbox.append(frame);                        // shared, not copied
//     iovec parts[Outbox::kPartsMax];
//     n = sendmsg(parts, outbox.gather(parts))     // one system call for up to 64 frames
//     outbox.consume(n);                           // a short write is continued where it stopped
//
// Pure. Runs on: the loop. After a close frame nothing more is taken (RFC 6455 5.5.1). Bounded by
// its user, who adds at most room() frames of bytes_room() bytes, or one frame, and leaves the rest
// where it can still be conflated.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/message.h"
#include "common/time.h"
#include "edge/fifo.h"

namespace sigmacast::edge {

class Outbox {
 public:
    static constexpr std::size_t kPartsMax = 64;
    static constexpr std::size_t kFramesMax = 64;
    static constexpr std::size_t kBytesMax = 256u << 10;

    /// A whole frame, or the bytes of one `from` there on. Dropped after a close frame; false then.
    bool append(Bytes frame, std::size_t from = 0);

    /// Fills `parts` with what is to be sent next; returns how many were used, kPartsMax at most.
    std::size_t gather(std::span<iovec> parts) const;
    void consume(std::size_t bytes);

    [[nodiscard]] bool empty() const { return frames_.empty(); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    [[nodiscard]] std::size_t frames() const { return frames_.size(); }
    /// How many more frames may be added now.
    [[nodiscard]] std::size_t room() const {
        return bytes_room() == 0 || frames_.size() >= kFramesMax ? 0 : kFramesMax - frames_.size();
    }
    [[nodiscard]] std::size_t bytes_room() const {
        return bytes_ >= kBytesMax ? 0 : kBytesMax - bytes_;
    }
    /// Bytes taken and sent since the beginning: what was appended at N has left when sent() >= N.
    [[nodiscard]] std::uint64_t appended() const { return appended_; }
    [[nodiscard]] std::uint64_t sent() const { return appended_ - bytes_; }
    [[nodiscard]] bool closed() const { return closed_; }

 private:
    struct Part {
        Bytes frame;
        std::size_t from = 0;  // What is before it is not sent, or has been.
    };
    Fifo<Part> frames_;
    std::size_t bytes_ = 0;
    std::uint64_t appended_ = 0;
    bool closed_ = false;
};

/// Whether a client takes anything of what waits for it.
class Uptake {
 public:
    void start(Mono now) { took_ = now; }
    /// For how long it has taken nothing although something waits. To be called now and then.
    Millis stalled(const Outbox& outbox, Mono now) {
        if (outbox.empty() || outbox.sent() != sent_) {
            sent_ = outbox.sent();
            took_ = now;
        }
        return elapsed(took_, now);
    }

 private:
    Mono took_{};             // When it last took something, or nothing waited for it.
    std::uint64_t sent_ = 0;  // As the outbox counts; then.
};

}  // namespace sigmacast::edge
