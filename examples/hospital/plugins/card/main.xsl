<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="xml" omit-xml-declaration="yes" encoding="UTF-8"/>
  <!-- Codes of HL7 table 0001, as people read them. -->
  <xsl:variable name="sexes" select="document('sexes.xml')/sexes/sex"/>

  <xsl:template match="/summary">
    <article id="p{@pid}">
      <h1>
        <xsl:value-of select="concat(name, '（', $sexes[@code = current()/sex], '）')"/>
      </h1>
      <xsl:apply-templates select="place[ward]"/>
      <xsl:if test="not(place/ward)">
        <p>未分配床位</p>
      </xsl:if>
      <xsl:choose>
        <xsl:when test="order">
          <ol>
            <xsl:apply-templates select="order">
              <xsl:sort select="item"/>
            </xsl:apply-templates>
          </ol>
        </xsl:when>
        <xsl:otherwise>
          <p>无执行中的医嘱</p>
        </xsl:otherwise>
      </xsl:choose>
      <p>
        <xsl:value-of select="concat('费用 ', charged, ' 元')"/>
      </p>
    </article>
  </xsl:template>

  <xsl:template match="place">
    <p>
      <xsl:value-of select="concat(ward, ' ', bed, ' 床')"/>
    </p>
  </xsl:template>

  <xsl:template match="order">
    <li>
      <xsl:value-of select="item"/>
      <xsl:for-each select="dose[string(.)] | often[string(.)]">
        <xsl:value-of select="concat('，', .)"/>
      </xsl:for-each>
    </li>
  </xsl:template>
</xsl:stylesheet>
