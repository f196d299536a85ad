#include "edge/outbox.h"

#include <algorithm>

namespace sigmacast::edge {

bool Outbox::append(Bytes frame, std::size_t from) {
    if (closed_ || !frame || frame->size() <= from) {
        return !closed_;
    }
    // RFC 6455 5.2: FIN, close.
    closed_ = from == 0 && static_cast<unsigned char>(frame->front()) == 0x88;
    bytes_ += frame->size() - from;
    appended_ += frame->size() - from;
    frames_.push_back({std::move(frame), from});
    return true;
}

std::size_t Outbox::gather(std::span<iovec> parts) const {
    std::size_t used = 0;
    for (const Part& part : frames_) {
        if (used == std::min(parts.size(), kPartsMax)) {
            break;
        }
        // sendmsg only reads; its interface knows no const.
        parts[used].iov_base = const_cast<char*>(part.frame->data()) + part.from;
        parts[used].iov_len = part.frame->size() - part.from;
        ++used;
    }
    return used;
}

void Outbox::consume(std::size_t bytes) {
    bytes_ -= bytes;
    while (bytes > 0) {
        Part& first = frames_.front();
        const std::size_t rest = first.frame->size() - first.from;
        if (bytes < rest) {
            first.from += bytes;
            return;
        }
        bytes -= rest;
        frames_.pop_front();
    }
}

}  // namespace sigmacast::edge
