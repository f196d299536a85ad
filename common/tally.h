// How many of something each key has now: connections of an address, of a user.
//
//     if (tally.count(key) >= most) { .. }       // refuse
//     Tally::Seat seat = tally.take(key);        // counted until the seat is gone
//
// An empty key is nobody's and not counted. Pure; one thread. Bounded by the seats, of which each
// holder has one: a key without any is forgotten. A seat may outlive the tally.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace sigmacast {

class Tally {
    using Counts = std::unordered_map<std::string, std::size_t>;

 public:
    class Seat {
     public:
        Seat() = default;
        Seat(Seat&& other) noexcept
            : counts_(std::move(other.counts_)), key_(std::move(other.key_)) {}
        Seat& operator=(Seat other) noexcept {
            std::swap(counts_, other.counts_);
            std::swap(key_, other.key_);
            return *this;
        }
        ~Seat() {
            if (counts_) {
                const auto place = counts_->find(key_);
                if (--place->second == 0) {
                    counts_->erase(place);
                }
            }
        }

     private:
        friend class Tally;
        std::shared_ptr<Counts> counts_;  // Null: none was taken.
        std::string key_;
    };

    [[nodiscard]] std::size_t count(const std::string& key) const {
        const auto place = counts_->find(key);
        return place == counts_->end() ? 0 : place->second;
    }
    /// Whether another would be one too many; 0: there is no limit.
    [[nodiscard]] bool full(const std::string& key, std::size_t most) const {
        return most != 0 && !key.empty() && count(key) >= most;
    }
    [[nodiscard]] Seat take(const std::string& key) {
        Seat seat;
        if (!key.empty()) {
            ++(*counts_)[key];
            seat.counts_ = counts_;
            seat.key_ = key;
        }
        return seat;
    }
    [[nodiscard]] std::size_t keys() const { return counts_->size(); }

 private:
    std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
};

}  // namespace sigmacast
