#include "edge/history.h"

#include <algorithm>
#include <utility>

namespace sigmacast::edge {
namespace {

std::size_t cost(const History::Entry& entry) {
    const Bytes& data = entry.frame->data();
    return History::kEntryOverheadBytes + entry.frame->size() + (data ? data->size() : 0);
}

}  // namespace

void History::reset(std::string epoch, std::uint64_t pos) {
    if (epoch != epoch_) {
        forget_pages();
    }
    epoch_ = std::move(epoch);
    ring_.clear();
    bytes_ = 0;
    start_ = pos;
    start_over();
}

void History::add(Entry entry) {
    if (entry.pos <= start_) {
        return;  // It is in the log, for those who need it.
    }
    entry.bytes = cost(entry);
    bytes_ += entry.bytes;
    ring_.emplace(entry.pos, std::move(entry));
    while (bytes_ > ring_bytes_max_) {
        bytes_ -= ring_.begin()->second.bytes;
        start_ = ring_.begin()->first;
        ring_.erase(ring_.begin());
    }
}

const History::Page* History::page_after(std::uint64_t pos) {
    for (auto page = pages_.upper_bound(pos); page != pages_.begin();) {
        --page;
        if (pos < page->second.to) {
            page->second.used = ++uses_;
            return &page->second;
        }
    }
    return nullptr;
}

/// The scan goes up, and then begins anew.
std::uint64_t History::next_of(const std::vector<std::uint64_t>& wanted) const {
    std::uint64_t lowest = sequence::kSeqMax;
    std::uint64_t next = sequence::kSeqMax;
    for (const std::uint64_t each : wanted) {
        lowest = std::min(lowest, each);
        next = each >= scan_end_ ? std::min(next, each) : next;
    }
    return next != sequence::kSeqMax ? next : lowest;
}

std::optional<protocol::HistoryRequest> History::aim(const std::vector<std::uint64_t>& wanted,
                                                     bool probe, Now now) {
    if (wanted.empty() && !probe) {
        start_over();
        return std::nullopt;
    }
    if (given_up() || (again_ && now.mono < *again_)) {
        return std::nullopt;
    }
    if (under_way_ && ++tries_ >= kTriesMax) {
        under_way_ = false;
        again_.reset();
        return std::nullopt;
    }
    under_way_ = false;
    again_.reset();
    std::uint64_t from = next_of(wanted);
    if (from != sequence::kSeqMax) {
        const Mono paid = std::max(paid_until_, now.mono) + kPageEach;
        if (paid - now.mono <= kPageEach * static_cast<int>(kPagesAtOnce)) {
            paid_until_ = paid;
        } else if (!probe) {
            again_ = paid - kPageEach * static_cast<int>(kPagesAtOnce);
            return std::nullopt;
        } else {
            from = sequence::kSeqMax;  // Nothing is beyond it: the answer is a position.
        }
    }
    const Millis wait = std::min(kRetryMin * (1 << tries_), kRetryMax);
    again_ = now.mono + wait + random_.upto(wait / 2);
    under_way_ = true;
    for_page_ = from != sequence::kSeqMax;
    ++requests_;
    first_id_ = tries_ == 0 ? id_ + 1 : first_id_;
    return protocol::HistoryRequest{++id_, epoch_, from};
}

bool History::on_answer(const protocol::History& answer, Now now) {
    if (!under_way_ || answer.id < first_id_ || answer.id > id_) {
        return false;
    }
    start_over();
    if (for_page_ && answer.to <= answer.from) {
        again_ = now.mono + kRetryMin;  // The log has no more than we were sent.
    }
    return true;
}

void History::add_page(Page page) {
    if (page.to <= page.from) {
        return;
    }
    for (const Entry& entry : page.entries) {
        page.bytes += cost(entry);
    }
    page.used = ++uses_;
    scan_end_ = page.to;
    Page& place = pages_[page.from];
    pages_bytes_ += page.bytes - place.bytes;
    place = std::move(page);
    while (pages_.size() > 1 && (pages_bytes_ > kPagesBytesMax || pages_.size() > kPagesMax)) {
        const auto oldest = std::min_element(
            pages_.begin(), pages_.end(),
            [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
        pages_bytes_ -= oldest->second.bytes;
        pages_.erase(oldest);
    }
}

void History::forget_pages() {
    pages_.clear();
    pages_bytes_ = 0;
    scan_end_ = 0;
}

void History::start_over() {
    under_way_ = false;
    again_.reset();
    tries_ = 0;
}

}  // namespace sigmacast::edge
