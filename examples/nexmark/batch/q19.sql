select auction, bidder, price, channel, url, date_time, extra, rank
from (
  select *, row_number() over (partition by auction order by price desc, date_time) as rank from bid
) as ranked
where rank <= 10
