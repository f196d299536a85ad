#include "edge/outbox.h"

namespace sigmacast::edge {

bool Outbox::append(Bytes frame) {
    if (closed_ || !frame || frame->empty()) {
        return !closed_;
    }
    closed_ = static_cast<unsigned char>(frame->front()) == 0x88;  // RFC 6455 5.2: FIN, close.
    bytes_ += frame->size();
    appended_ += frame->size();
    frames_.push_back(std::move(frame));
    return true;
}

std::size_t Outbox::gather(iovec (&parts)[kPartsMax]) const {
    std::size_t used = 0;
    std::size_t offset = offset_;
    for (const Bytes& frame : frames_) {
        if (used == kPartsMax) {
            break;
        }
        // sendmsg only reads; its interface knows no const.
        parts[used].iov_base = const_cast<char*>(frame->data()) + offset;
        parts[used].iov_len = frame->size() - offset;
        offset = 0;
        ++used;
    }
    return used;
}

void Outbox::consume(std::size_t bytes) {
    bytes_ -= bytes;
    while (bytes > 0) {
        const std::size_t rest = frames_.front()->size() - offset_;
        if (bytes < rest) {
            offset_ += bytes;
            return;
        }
        bytes -= rest;
        offset_ = 0;
        frames_.pop_front();
    }
}

}  // namespace sigmacast::edge
