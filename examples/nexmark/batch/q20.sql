select auction, bidder, price, channel, url, bid.date_time, bid.extra, item_name, description, initial_bid, reserve,
  auction.date_time as opened, expires, seller, category, auction.extra as auction_extra
from bid join auction on auction = id
where category = 10
