#include "tests/powercut/images.h"

#include <algorithm>
#include <array>

namespace sigmacast::storage {
namespace {

constexpr std::size_t kSector = 512;

bool happens(double chance, Random& random) {
    return static_cast<double>(random.between(0, 999'999)) < chance * 1e6;
}

void put(std::string& content, std::size_t offset, std::string_view bytes) {
    if (content.size() < offset + bytes.size()) {
        content.resize(offset + bytes.size(), '\0');
    }
    std::copy(bytes.begin(), bytes.end(), content.begin() + static_cast<std::ptrdiff_t>(offset));
}

void put_all(std::string& content, const Record& record) {
    if (record.kind == Record::Kind::kWrite) {
        put(content, record.offset, record.data);
    } else {
        content.resize(std::min(content.size(), static_cast<std::size_t>(record.offset)));
    }
}

std::string garbage(std::size_t size, Random& random) {
    std::string bytes(size, '\0');
    std::generate(bytes.begin(), bytes.end(),
                  [&random] { return static_cast<char>(random.between(0, 255)); });
    return bytes;
}

}  // namespace

void Disk::advance(std::size_t to) {
    for (; at_ < to && at_ < records_.size(); ++at_) {
        const Record& record = records_[at_];
        if (record.kind == Record::Kind::kMark) {
            mark_ = record.offset;
            continue;
        }
        File& file = files_[record.file];
        switch (record.kind) {
            case Record::Kind::kWrite:
            case Record::Kind::kTruncate:
                file.later.push_back(&record);
                break;
            case Record::Kind::kSync:
                for (const Record* later : file.later) {
                    put_all(file.synced, *later);
                }
                file.later.clear();
                if (!file.exists) {
                    // SQLite syncs the folder with the first sync of a log or journal, and the
                    // store when it makes the database.
                    for (auto& [name, other] : files_) {
                        other.has_ghost = false;
                    }
                }
                file.exists = true;
                break;
            case Record::Kind::kDelete: {
                File gone;
                gone.has_ghost = !record.folder_synced && file.exists;
                gone.ghost = std::move(file.synced);
                file = std::move(gone);
                break;
            }
            case Record::Kind::kMark:
                break;
        }
    }
}

Image Disk::cut(Random& random) const {
    constexpr std::array<double, 4> kWritten{0.0, 0.5, 0.9, 1.0};
    constexpr std::array<double, 3> kTorn{0.0, 0.2, 0.7};
    const Chance chance{kWritten[random.between(0, 3)], kTorn[random.between(0, 2)],
                        random.between(0, 3) == 0};
    Image image;
    for (const auto& [name, file] : files_) {
        if (file.has_ghost && happens(0.5, random)) {
            image[name] = file.ghost;
            continue;
        }
        if (!file.exists && (file.later.empty() || !happens(chance.written, random))) {
            continue;
        }
        std::string content = file.synced;
        for (const Record* record : file.later) {
            apply(content, *record, chance, random);
        }
        image[name] = std::move(content);
    }
    return image;
}

void Disk::apply(std::string& content, const Record& record, const Chance& chance, Random& random) {
    if (record.kind == Record::Kind::kTruncate) {
        if (happens(chance.written, random)) {
            put_all(content, record);
        }
        return;
    }
    const bool torn = happens(chance.torn, random);
    const bool whole = happens(chance.written, random);
    const std::string_view data = record.data;
    for (std::size_t from = 0; from < data.size();) {
        const std::size_t at = record.offset + from;
        const std::size_t size = std::min(data.size() - from, kSector - at % kSector);
        if (torn ? happens(0.5, random) : whole) {
            put(content, at, data.substr(from, size));
        } else if (chance.garbage && at >= content.size()) {
            put(content, at, garbage(size, random));
        }
        from += size;
    }
}

}  // namespace sigmacast::storage
