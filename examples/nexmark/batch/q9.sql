select auction, item_name, category, seller, opened, expires, bidder, price, date_time, extra
from (
  select auction, item_name, category, seller, auction.date_time as opened, expires, bidder, price, bid.date_time, bid.extra,
    row_number() over (partition by auction order by price desc, bid.date_time) as place
  from bid join auction on auction = id
  where bid.date_time between auction.date_time and expires
) as ranked
where place = 1
