#include "tests/sim/network.h"

namespace sigmacast::sim {
namespace {

constexpr Millis kLatest{3'000};

}  // namespace

void Link::send(std::shared_ptr<const Frames> frames) {
    Packet packet{std::move(frames), time_.mono()};
    if (!connected_ || cut_) {
        const bool keeps = connected_ || type_ == Type::kDealer;
        if (keeps && queue_.size() < kHighWaterMark) {
            queue_.push_back(std::move(packet));
        }
        return;
    }
    if (!without.empty() && packet.frames->front().starts_with(without)) {
        return;
    }
    if (loss > 0 && time_.chance(loss)) {
        return;
    }
    if (twice > 0 && time_.chance(twice)) {
        carry(packet);
    }
    carry(std::move(packet));
}

void Link::carry(Packet packet) {
    if (under_way_ >= kHighWaterMark) {
        return;
    }
    Micros delay = time_.micros(50, 2'000);
    if (slow > Millis{0}) {
        delay += time_.between(Millis{0}, slow);
    }
    last_ = std::max(last_ + Micros{1}, time_.mono() + delay);
    ++under_way_;
    time_.at(last_, [this, connection = connection_, packet = std::move(packet)] {
        if (connection < oldest_) {
            return;
        }
        if (connection < connection_) {
            time_.after(late_, [this, connection, packet] {
                if (connection >= oldest_) {
                    receive_(*packet.frames, packet.sent);
                }
            });
            return;
        }
        --under_way_;
        if (cut_) {
            queue_.push_back(packet);
            return;
        }
        receive_(*packet.frames, packet.sent);
    });
}

void Link::connect() {
    connected_ = true;
    cut_ = false;
    last_ = time_.mono();
    for (Packet& packet : std::exchange(queue_, {})) {
        carry(std::move(packet));
    }
}

void Link::disconnect() {
    connected_ = false;
    oldest_ = ++connection_;
    under_way_ = 0;
    if (type_ == Type::kPub) {
        queue_.clear();
    }
}

void Link::forget() {
    disconnect();
    queue_.clear();
}

void Link::sender_died() {
    connected_ = false;
    ++connection_;
    under_way_ = 0;
    queue_.clear();
    late_ = time_.between(Millis{0}, kLatest);
}

void Link::cut(bool on) {
    cut_ = on;
    if (!on && connected_) {
        for (Packet& packet : std::exchange(queue_, {})) {
            carry(std::move(packet));
        }
    }
}

}  // namespace sigmacast::sim
