// How many of something each key has now: connections of an address, of a user.
//
//     if (tally.full(key, most)) { .. }          // refuse
//     Tally::Seat seat = tally.take(key);        // counted until the seat is gone
//
// An empty key is nobody's and not counted. Copies of a tally count together. Thread safe: but who
// asks on several threads at once may take a seat too many on each. Bounded by the seats, of which
// each holder has one: a key without any is forgotten. A seat may outlive the tally.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace sigmacast {

class Tally {
    struct Book {
        std::mutex mutex;
        std::unordered_map<std::string, std::size_t> counts;
    };

 public:
    class Seat {
     public:
        Seat() = default;
        Seat(Seat&& other) noexcept : book_(std::move(other.book_)), key_(std::move(other.key_)) {}
        Seat& operator=(Seat other) noexcept {
            std::swap(book_, other.book_);
            std::swap(key_, other.key_);
            return *this;
        }
        ~Seat() {
            if (book_) {
                const std::lock_guard lock(book_->mutex);
                const auto place = book_->counts.find(key_);
                if (--place->second == 0) {
                    book_->counts.erase(place);
                }
            }
        }

     private:
        friend class Tally;
        std::shared_ptr<Book> book_;  // Null: none was taken.
        std::string key_;
    };

    [[nodiscard]] std::size_t count(const std::string& key) const {
        const std::lock_guard lock(book_->mutex);
        const auto place = book_->counts.find(key);
        return place == book_->counts.end() ? 0 : place->second;
    }
    /// Whether another would be one too many; 0: there is no limit.
    [[nodiscard]] bool full(const std::string& key, std::size_t most) const {
        return most != 0 && !key.empty() && count(key) >= most;
    }
    [[nodiscard]] Seat take(const std::string& key) {
        Seat seat;
        if (!key.empty()) {
            const std::lock_guard lock(book_->mutex);
            ++book_->counts[key];
            seat.book_ = book_;
            seat.key_ = key;
        }
        return seat;
    }
    [[nodiscard]] std::size_t keys() const {
        const std::lock_guard lock(book_->mutex);
        return book_->counts.size();
    }

 private:
    std::shared_ptr<Book> book_ = std::make_shared<Book>();
};

}  // namespace sigmacast
