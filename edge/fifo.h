// A queue for what is empty nearly always and there for each client: without items it holds no
// memory (libstdc++'s std::deque: 576 bytes), with a few of them a small vector, which it keeps for
// the next burst.
//
//     queue.push_back(item);  use(queue.front());  queue.pop_front();  queue[i]
//
// References are good until the next push_back() or pop_front(). Pure. Bounded by its user.
#pragma once

#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

namespace sigmacast::edge {

template <class T>
class Fifo {
 public:
    [[nodiscard]] bool empty() const { return first_ == items_.size(); }
    [[nodiscard]] std::size_t size() const { return items_.size() - first_; }
    T& front() { return items_[first_]; }
    const T& front() const { return items_[first_]; }
    T& operator[](std::size_t at) { return items_[first_ + at]; }
    const T& operator[](std::size_t at) const { return items_[first_ + at]; }
    auto begin() const { return std::next(items_.begin(), static_cast<std::ptrdiff_t>(first_)); }
    auto end() const { return items_.end(); }

    void push_back(T item) {
        if (items_.size() == 1 && items_.capacity() == 1) {
            items_.reserve(kFew);  // One is usual; where there is a second one, more follow.
        }
        items_.push_back(std::move(item));
    }
    void pop_front() {
        if (size() == 1) {
            clear();
            return;
        }
        items_[first_++] = T{};  // What it shares is free now.
        if (first_ >= kGap && first_ * 2 >= items_.size()) {
            items_.erase(items_.begin(), begin());
            first_ = 0;
        }
    }
    void clear() {
        first_ = 0;
        items_.clear();
        if (items_.capacity() > kKept) {
            items_ = std::vector<T>();  // "= {}" would be a list of no items, and keep the room.
        }
    }
    /// Those that stay keep their order.
    template <class Unwanted>
    void remove_if(Unwanted unwanted) {
        items_.erase(items_.begin(), begin());
        first_ = 0;
        std::erase_if(items_, unwanted);
    }

 private:
    static constexpr std::size_t kGap = 32;  // Places that may be unused at the front.
    static constexpr std::size_t kFew = 8;
    static constexpr std::size_t kKept = 16;  // Of the room it has had, what it keeps when empty.

    std::vector<T> items_;
    std::size_t first_ = 0;
};

}  // namespace sigmacast::edge
